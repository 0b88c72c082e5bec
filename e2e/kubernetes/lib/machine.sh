# shellcheck shell=bash
# The small machine that the cluster runs in: namespaces of its own (mounts, network, processes, host name, IPC), so that
# nothing of the real machine changes but its cgroups, which `down` removes.

# Process 1 of the machine prepares it and then does nothing: when it ends, the kernel ends all others.
machine_init() {
    mount --make-rshared /
    mount -t tmpfs -o mode=755 tmpfs /run
    mount -t tmpfs -o mode=755 tmpfs /var/log
    mkdir -p /run/lock /run/netns /var/lib/kubelet
    mount --bind "$run/kubelet" /var/lib/kubelet
    # The kubelet insists on these; it finds them set, in files of the run's own, and the real machine keeps its values.
    local setting file
    for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
        file=$run/sysctl/$(tr / . <<<"${setting%=*}")
        echo "${setting#*=}" >"$file" && mount --bind "$file" "/proc/sys/${setting%=*}"
    done
    sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.route_localnet=1
    ip link set lo up && ip address add "$node_ip/32" dev lo && ip route add default dev lo
    hostname "$node"
    printf 'nameserver %s\nsearch svc.cluster.local cluster.local\n' "$node_ip" >"$run/resolv.conf"
    mount --bind "$run/resolv.conf" /etc/resolv.conf
    touch "$run/prepared"
    trap 'exit 0' TERM
    while :; do sleep 3600 & wait $! || true; done
}

# A process is known by its id, its start time and the boot, so that a file left by an earlier boot names nothing.
process_mark() { # PID
    local stat
    stat=$(cat "/proc/$1/stat" 2>/dev/null) || return 1
    set -- "$1" ${stat##*) }
    printf '%s %s %s\n' "$1" "${21}" "$(cat /proc/sys/kernel/random/boot_id)"
}
is_up() {
    [ -s "$run/machine" ] && machine=$(cut -d' ' -f1 "$run/machine") && [ "$(process_mark "$machine")" = "$(cat "$run/machine")" ]
}

start_machine() {
    make_cgroups
    setsid unshare --mount --net --pid --uts --ipc --fork --propagation private --mount-proc=/proc \
        "$here/cluster" machine-init >"$run/log/machine" 2>&1 </dev/null 9>&- &
    local outer=$!
    wait_for 15 machine "the namespaces" test -e "$run/prepared"
    process_mark "$(pgrep -P "$outer" | head -1)" >"$run/machine"
    is_up || die "the namespaces ended at once; $run/log/machine says why"
}

stop_machine() {
    if is_up; then
        kill -KILL "$machine"
        while is_up; do sleep .1; done
    fi
    # A cgroup can be removed a moment after the last process in it ended.
    local try
    for try in 1 2 3 4 5 6 7 8 9 10; do
        find /sys/fs/cgroup -depth -type d -path "*/$cgroup*" -exec rmdir {} + 2>/dev/null || true
        [ -n "$(find /sys/fs/cgroup -maxdepth 2 -type d -name "$cgroup" 2>/dev/null)" ] || break
        sleep ".$try"
    done
}

make_cgroups() {
    local controller
    if [ "$(stat -fc %T /sys/fs/cgroup)" = cgroup2fs ]; then
        for controller in cpu cpuset memory pids; do echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control 2>/dev/null || true; done
        mkdir -p "/sys/fs/cgroup/$cgroup"
        return
    fi
    for controller in /sys/fs/cgroup/*/; do
        [ -e "$controller/cgroup.procs" ] || continue
        mkdir -p "$controller/$cgroup"
        # A new cpuset is empty and takes no process until it is given processors and memory.
        if [ -e "$controller/cpuset.cpus" ]; then
            cat "$controller/cpuset.cpus" >"$controller/$cgroup/cpuset.cpus"
            cat "$controller/cpuset.mems" >"$controller/$cgroup/cpuset.mems"
        fi
    done
}

# The machine's processes see its network, files and processes; the working folder stays.
inside() { nsenter -t "$machine" -m -n -p -u -i --wd="$PWD" -- "$@"; }

# Runs a program for as long as the machine runs; what it prints is kept in log/NAME.
service() { # NAME COMMAND...
    local name=$1
    shift
    inside setsid "$@" >"$run/log/$name" 2>&1 </dev/null 9>&- &
}

wait_for() { # SECONDS LOG WHAT COMMAND...
    local limit=$1 log=$2 what=$3 end=$((SECONDS + $1))
    shift 3
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $end ]; then
            tail -5 "$run/log/$log" >&2 || true
            die "$what did not come up in $limit s; the lines above are the end of $run/log/$log"
        fi
        sleep .2
    done
}
