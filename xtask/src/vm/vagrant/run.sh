# Brings the machines of tests/vagrant up in namespaces of their own, and checks them: run.sh DIRECTORY CHECKOUT TARBALL
# Everything that is started here ends with this script: it is the first process of its namespace.
set -eu
dir=$1 checkout=$2 tarball=$3

ip link set lo up
# Machines of a former run ended with it.
rm -rf "$dir/libvirt" "$dir/home/machines"
# libvirt sees files of its own in place of the machine's.
mkdir -p "$dir/libvirt/images" "$dir/home" /var/lib/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt /run/libvirt
mount --bind "$dir/libvirt" /var/lib/libvirt
for directory in /run/libvirt /var/cache/libvirt /var/log/libvirt /etc/libvirt; do
    mount -t tmpfs tmpfs "$directory"
done
# The users that the package libvirt-daemon-system would have made, for as long as this script runs.
for file in passwd group; do
    cp "/etc/$file" "$dir/$file"
done
grep -q '^libvirt-qemu:' "$dir/passwd" || echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin' >> "$dir/passwd"
for group in libvirt-qemu:64055 kvm:64056 libvirt:64057; do
    grep -q "^${group%:*}:" "$dir/group" || echo "${group%:*}:x:${group#*:}:" >> "$dir/group"
done
for file in passwd group; do
    mount --bind "$dir/$file" "/etc/$file"
done
printf 'auth_unix_rw = "none"\nauth_unix_ro = "none"\n' > /etc/libvirt/libvirtd.conf
# There is nobody here but us: no user, no policy and no control groups to put machines into.
printf '%s\n' 'user = "root"' 'group = "root"' 'security_driver = "none"' 'remember_owner = 0' 'dynamic_ownership = 0' \
    'namespaces = []' 'cgroup_controllers = []' 'stdio_handler = "file"' > /etc/libvirt/qemu.conf
libvirtd --config /etc/libvirt/libvirtd.conf >"$dir/libvirtd.log" 2>&1 &
tries=60
until [ -S /run/libvirt/libvirt-sock ]; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { cat "$dir/libvirtd.log"; exit 1; }
    sleep 0.5
done

export HOME="$dir/home" VAGRANT_HOME="$dir/home/.vagrant.d" VAGRANT_DOTFILE_PATH="$dir/home/machines"
export VAGRANT_CHECKPOINT_DISABLE=1 VAGRANT_DEFAULT_PROVIDER=libvirt
export OXLAN_BOX=oxlan-local OXLAN_KERNEL="$dir/vmlinuz" OXLAN_INITRD="$dir/initrd" OXLAN_LIBVIRT_DRIVER="$OXLAN_DRIVER" OXLAN_TARBALL="$tarball"
cd "$checkout/tests/vagrant"
vagrant box add --force --provider libvirt --name "$OXLAN_BOX" "$dir/oxlan.box"
vagrant up --no-parallel
./check
