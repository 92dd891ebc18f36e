#!/bin/busybox sh
# The first process of the machine: makes the root that the tests see, and goes there.
# The root of the machine outside is the lower layer; whatever is written stays in memory.
b=/bin/busybox

fail() {
    echo "the machine's root cannot be made: $1"
    $b poweroff -f
}

option() {
    $b sed "s/.*$1=\([^ ]*\).*/\1/" proc/cmdline
}

$b mount -t proc proc /proc && $b mount -t sysfs sys /sys && $b mount -t devtmpfs dev /dev || fail mounts
# A machine that was only started to see whether one can be.
if $b grep -q oxlan.probe proc/cmdline; then
    echo 'oxlan: a guest runs'
    $b poweroff -f
fi
for module in virtio_pci 9pnet_virtio 9p overlay; do
    # One that is built in is not found.
    $b modprobe $module 2>/dev/null
done
$b mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 root /host || fail 9p
$b mount -t tmpfs memory /memory && $b mkdir /memory/upper /memory/work || fail memory
$b mount -t overlay -o lowerdir=/host,upperdir=/memory/upper,workdir=/memory/work root /root || fail overlay
cd /root
for directory in run tmp var/lib; do
    $b mkdir -p $directory && $b mount -t tmpfs tmpfs $directory || fail $directory
done
$b mkdir -p proc sys dev lib/modules run/vm
for directory in proc sys dev; do
    $b mount --move /$directory $directory || fail $directory
done
# What is needed from below the machine's own directories is there again, with a layer for what is written.
number=0
for path in $(option oxlan.covered | $b tr : ' '); do
    number=$((number + 1))
    layer=/memory/$number
    $b mkdir -p ".$path" $layer/upper $layer/work || fail "$path"
    $b mount -t overlay -o "lowerdir=/host$path,upperdir=$layer/upper,workdir=$layer/work" overlay ".$path" || fail "$path"
done
# What the kernel calls to load a module on demand. This machine outside need not have one.
$b ln -sfn "$(option oxlan.modules)" "lib/modules/$($b uname -r)"
$b cp $b run/vm/modprobe
$b ln -s modprobe run/vm/busybox
echo /run/vm/modprobe > proc/sys/kernel/modprobe
exec $b switch_root /root /bin/sh "$(option oxlan.script)"
