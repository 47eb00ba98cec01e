# PID 1 of the guest once it has its root: starts the agent, which runs commands for machine.py one at a
# time, and then only reaps orphans, as any init does. With VM_SYSTEMD=1 systemd is PID 1, and this a service.
#
# On ttyS1 the host says `run N` and `clean N`; the agent answers `ready`, `exit N CODE` and `clean N`.
# The command is /.vm/commands/N/command, a shell script; it runs in a session and a cgroup of its own,
# and its output goes to a file beside it. `clean` kills all that is left, whether the command ended or
# not. PID 1 is out of the OOM killer's reach; the agent and a command's waiter are put there.
exec 3<>/dev/ttyS1 </dev/null >/dev/console 2>&1
busybox=/.vm/busybox
cgroups=/sys/fs/cgroup
# Where the repository lies below one of the directories that `clean` empties, all of its way there stays.
keep=$(echo "$VM_REPO" | $busybox cut -d/ -f1-3)
$busybox stty raw -echo <&3

# As a service manager has it: 1024 descriptors, more for who asks.
ulimit -Hn 65536
ulimit -Sn 1024

run() {
    $busybox mkdir -p $cgroups/command
    $busybox setsid $busybox sh -c '
        echo 0 >/sys/fs/cgroup/command/cgroup.procs
        echo 0 >/proc/self/oom_score_adj
        exec /.vm/busybox sh "$1/command"
    ' command "/.vm/commands/$1" 3>&- >"/.vm/commands/$1/output" 2>&1
    echo "exit $1 $?" >&3
}

# rmdir refuses a cgroup that still has a process in it, so when the last is gone so are they all: in the
# root cgroup there are only PID 1, this agent and kernel threads.
clean() {
    kill -9 -1 2>/dev/null
    if [ "$VM_SYSTEMD" = 1 ]; then # its cgroups, and what it keeps in /run, are its own affair
        until $busybox rmdir $cgroups/command 2>/dev/null || [ ! -d $cgroups/command ]; do :; done
        $busybox find /tmp /dev/shm -mindepth 1 -maxdepth 1 ! -path "$keep" -exec $busybox rm -rf {} +
        echo "clean $1" >&3
        return
    fi
    until [ -z "$($busybox find $cgroups -mindepth 1 -type d)" ]; do
        $busybox find $cgroups -mindepth 1 -depth -type d -exec $busybox rmdir {} + 2>/dev/null
    done
    $busybox find /tmp /run /dev/shm -mindepth 1 -maxdepth 1 ! -path "$keep" -exec $busybox rm -rf {} +
    echo "clean $1" >&3
}

serve() {
    echo ready >&3
    while read -r verb number <&3; do
        case $verb in
        # The waiter becomes PID 1's child: a SIGCHLD here would make `read` drop half of a line.
        run) (run "$number" &) ;;
        clean) clean "$number" ;;
        esac
    done
}

echo -1000 >/proc/self/oom_score_adj
if [ "$VM_SYSTEMD" = 1 ]; then
    serve # in this process: `clean` spares no other
fi
serve &
wait
echo "the agent ended" # and so does PID 1: the kernel panics, qemu ends, and the host reports it
