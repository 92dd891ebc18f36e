# Makes a box for Vagrant's libvirt provider from Debian's packages: box.sh DIRECTORY
# There is no boot loader in it: the kernel and its first file system are beside it, for the emulator.
set -eu
dir=$1
# Vagrant's well-known key, by which it enters a new machine once and puts one of its own in its place.
key=$(find /usr/share/vagrant /usr/share/rubygems-integration -name vagrant.pub 2>/dev/null | head -n 1)
[ -n "$key" ] || { echo 'vagrant.pub is not where the package vagrant puts it'; exit 1; }

rm -rf "$dir/root" "$dir/box"
mkdir -p "$dir/box"
mmdebstrap --quiet --variant=minbase \
    --include=systemd-sysv,dbus,udev,ifupdown,isc-dhcp-client,openssh-server,sudo,iproute2,iputils-ping,nftables,netbase,linux-image-cloud-amd64,initramfs-tools \
    --customize-hook='chroot "$1" useradd --create-home --shell /bin/bash vagrant' \
    --customize-hook='echo "vagrant ALL=(ALL) NOPASSWD: ALL" > "$1/etc/sudoers.d/vagrant"' \
    --customize-hook='install -d -m 700 -o 1000 -g 1000 "$1/home/vagrant/.ssh"' \
    --customize-hook="install -m 600 -o 1000 -g 1000 '$key' \"\$1/home/vagrant/.ssh/authorized_keys\"" \
    --customize-hook='printf "auto lo eth0\niface lo inet loopback\niface eth0 inet dhcp\n" > "$1/etc/network/interfaces"' \
    --customize-hook='echo "/dev/vda / ext4 defaults 0 1" > "$1/etc/fstab"' \
    --customize-hook='echo "UseDNS no" > "$1/etc/ssh/sshd_config.d/vagrant.conf"' \
    --customize-hook='echo box > "$1/etc/hostname"' \
    bookworm "$dir/root"
cp "$dir"/root/boot/vmlinuz-* "$dir/vmlinuz"
cp "$dir"/root/boot/initrd.img-* "$dir/initrd"
truncate --size=2G "$dir/box.raw"
mkfs.ext4 -q -F -L box -d "$dir/root" "$dir/box.raw"
qemu-img convert -O qcow2 "$dir/box.raw" "$dir/box/box.img"
rm -rf "$dir/root" "$dir/box.raw"
printf '{"provider":"libvirt","format":"qcow2","virtual_size":2}\n' > "$dir/box/metadata.json"
printf 'Vagrant.configure("2") { |config| config.vm.provider(:libvirt) { |libvirt| libvirt.disk_bus = "virtio" } }\n' > "$dir/box/Vagrantfile"
tar -C "$dir/box" -czf "$dir/oxlan.box" metadata.json Vagrantfile box.img
rm -rf "$dir/box"
