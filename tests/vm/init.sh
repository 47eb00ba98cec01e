#!/bin/busybox sh
# PID 1 of the guest while it runs from the initramfs: loads the modules, lays a tmpfs over the host's
# root, makes swap, and hands over to agent.sh. VM_SWAP_MIB comes from the kernel command line. With VM_LAYER=1 one
# more tree of files lies over the host's root; with VM_SYSTEMD=1 PID 1 is systemd, and the agent a service of it.
set -e
/bin/busybox --install -s /bin
export PATH=/bin

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module"; done </modules/order

# cache=loose: the guest believes nobody changes the host's files under it, and keeps
# names and pages cached. Changes the host makes after boot may therefore never be seen in the guest.
mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,msize=262144,ro root /lower
mount -t tmpfs -o mode=755 tmpfs /upper
mkdir /upper/files /upper/work
lower=/lower
if [ "$VM_LAYER" = 1 ]; then
    # A mount of its own: the kernel refuses one lower layer inside another (ELOOP).
    mkdir /layer
    mount -t 9p -o trans=virtio,version=9p2000.L,cache=loose,msize=262144,ro layer /layer
    lower=/layer:/lower
fi
mount -t overlay -o lowerdir=$lower,upperdir=/upper/files,workdir=/upper/work overlay /root

cd /root
for filesystem in proc sys dev; do mount --move "/$filesystem" $filesystem; done
mkdir -p dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount -t devpts -o mode=620,ptmxmode=666 devpts dev/pts
ln -sf /proc/self/fd dev/fd
ln -sf /proc/self/fd/0 dev/stdin
ln -sf /proc/self/fd/1 dev/stdout
ln -sf /proc/self/fd/2 dev/stderr
# A checkout below one of these would be hidden by what is mounted over it.
mkdir -p .vm/repo
mount --bind ".$VM_REPO" .vm/repo
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
if [ ! -d ".$VM_REPO" ]; then
    mkdir -p ".$VM_REPO"
    mount --bind .vm/repo ".$VM_REPO"
fi
if [ "$VM_SYSTEMD" != 1 ]; then # which wants to do this itself
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    echo +memory >sys/fs/cgroup/cgroup.subtree_control
fi

mkdir -p .vm/commands out
cp /bin/busybox /agent.sh .vm/
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=65536 commands .vm/commands
mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=65536 out out

hostname guest
ip link set lo up
if [ "$VM_SWAP_MIB" != 0 ]; then
    echo "${VM_SWAP_MIB}M" >sys/block/zram0/disksize
    mkswap dev/zram0 >/dev/null
    swapon dev/zram0
fi

if [ "$VM_SYSTEMD" = 1 ]; then
    mkdir -p run/systemd/system
    rm -f .dockerenv run/.containerenv # the host may be a container, the guest is not
    rm -rf usr/lib/systemd/system-generators etc/systemd/system # what this host boots is no concern of the guest
    cat >run/systemd/system/vm-agent.service <<UNIT
[Unit]
DefaultDependencies=no
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate
[Service]
ExecStart=/.vm/busybox sh /.vm/agent.sh
Environment=VM_SYSTEMD=1 VM_REPO=$VM_REPO
OOMScoreAdjust=-1000
OOMPolicy=continue
LimitNOFILE=1024:65536
UNIT
    exec switch_root /root /lib/systemd/systemd --unit=vm-agent.service
fi
exec switch_root /root /.vm/busybox sh /.vm/agent.sh
