# What every machine does first; what it is there for follows below.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root

ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mkdir -p /dev/shm /dev/pts
mount -t tmpfs shm /dev/shm
mount -t devpts pts /dev/pts
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
ip link set lo up

# What a kernel says that is not well, of itself or of a device that has too few queues for XDP.
export COMPLAINTS='BUG:|WARNING:|Oops|Call Trace|general protection|slower locked tx mode'

# Says that everything was run, unless the kernel complained meanwhile, and switches off.
finish() {
    if dmesg | grep -E "$COMPLAINTS"; then
        echo 'the kernel complained'
        dmesg | tail -n 60
    elif [ -z "$failed" ]; then
        echo done > /dev/ttyS1
    fi
    exec /run/vm/busybox poweroff -f
}

