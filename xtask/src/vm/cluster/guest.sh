# A node of the cluster; its name, number and paths stand above.
hostname "$node"
PATH="$programs:/run/vm:$PATH"

/run/vm/modprobe virtio_net
until ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done
ip link set eth0 up
ip address add "$underlay/24" dev eth0
ip -6 address add "$underlay_v6/64" dev eth0 nodad

# What survives that the machine is switched off, as on a disk.
mkdir -p /var/lib/oxlan /etc/oxlan
mount -t 9p -o rw,trans=virtio,version=9p2000.L,msize=131072 state /var/lib/oxlan || echo 'no disk for the state'

cp "$files/cluster.toml" /etc/oxlan/cluster.toml
printf '{"cniVersion":"1.0.0","name":"oxlan","type":"oxlan-cni","runDir":"/run/oxlan"}' > /run/oxlan.conf

# What the unit does on a host with systemd: Restart=always.
(while :; do
    oxlan agent --node "$node" --cluster-file /etc/oxlan/cluster.toml --xdp on
    echo "the agent ended with status $?"
    sleep 1
done) >/run/agent.log 2>&1 &

# attach NAME: a pod, which answers by iperf3, too; prints the plugin's result.
cat > /run/vm/attach <<'END'
#!/bin/sh
ip netns add "$1" && ip -n "$1" link set lo up || exit 1
CNI_COMMAND=ADD CNI_CONTAINERID="$1" CNI_NETNS="/run/netns/$1" CNI_IFNAME=eth0 CNI_PATH=/ oxlan-cni < /run/oxlan.conf || exit 1
nsenter "--net=/run/netns/$1" iperf3 --server --daemon >/dev/null
END
# reach NAME ADDRESS...: by small and large packets and by a connection; prints the addresses with `yes` or `no`.
cat > /run/vm/reach <<'END'
#!/bin/sh
in_pod="nsenter --net=/run/netns/$1"
shift
for address; do
    if $in_pod ping -q -c 1 -W 5 "$address" >/dev/null 2>&1 &&
        $in_pod ping -q -c 1 -W 5 -s 4000 "$address" >/dev/null 2>&1 &&
        timeout 60 $in_pod iperf3 --client "$address" --connect-timeout 5000 --bytes 256K >/dev/null 2>&1; then
        echo "$address yes"
    else
        echo "$address no"
    fi
done
END
# stream NAME ADDRESS SECONDS: numbered datagrams, in the background. A hundred a second, with room for some seconds'
# worth, because an emulated processor that loads programs lets the receiver wait.
# iperf3 gives both sides the same.
for side in rmem wmem; do echo 4194304 > /proc/sys/net/core/${side}_max; done
cat > /run/vm/stream <<'END'
#!/bin/sh
nsenter "--net=/run/netns/$1" iperf3 --client "$2" --udp --length 200 --bitrate 160K --window 1M --time "$3" --interval 0 --json >/run/stream 2>&1 &
END
# streamed: what became of them, once they all were sent.
cat > /run/vm/streamed <<'END'
#!/bin/sh
cat /run/stream
END
chmod 755 /run/vm/attach /run/vm/reach /run/vm/stream /run/vm/streamed

# A shell for `cargo xtask vm ssh`.
(while :; do
    cd /root
    setsid -c sh -i </dev/ttyS0 >/dev/ttyS0 2>&1
    sleep 1
done) &

# A line is a script; the answer is its status and what it printed, on one line, too.
stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
echo ready >&3
while IFS= read -r line <&3; do
    printed=$(sh -c "$line" 2>&1 </dev/null)
    status=$?
    printf '%s %s\n' "$status" "$(printf %s "$printed" | tr '\n' '\001')" >&3
done
