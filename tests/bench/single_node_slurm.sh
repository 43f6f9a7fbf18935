#!/usr/bin/env bash
# A Slurm cluster of this one machine, in a folder of its own, to try scoresde-bench --executor slurm for real.
#
#     tests/bench/single_node_slurm.sh start DIR     then: export SLURM_CONF=DIR/slurm.conf
#     tests/bench/single_node_slurm.sh stop DIR
#
# Needs root, and Debian's packages slurm-wlm and munge; touches nothing outside DIR, and ends only what it started.
set -eu
action=${1:?start or stop} dir=$(realpath -m "${2:?a folder}")

start() {
    mkdir -p "$dir/state" "$dir/spool"
    chmod 755 "$dir"
    [ -f "$dir/munge.key" ] || (umask 077 && head -c 1024 /dev/urandom >"$dir/munge.key")
    local host cores memory
    host=$(hostname -s) cores=$(nproc) memory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
    cat >"$dir/slurm.conf" <<CONF
ClusterName=single
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldPort=${SLURMCTLD_PORT:-26817}
SlurmdPort=${SLURMD_PORT:-26818}
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
KillWait=5
MinJobAge=30
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cores RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
    export SLURM_CONF=$dir/slurm.conf
    slurmctld
    slurmd
    for _ in $(seq 60); do
        if sinfo --noheader --format=%T 2>/dev/null | grep -q idle; then
            echo "export SLURM_CONF=$dir/slurm.conf"
            return
        fi
        sleep 0.5
    done
    sinfo >&2 || true
    tail -n 5 "$dir"/*.log >&2
    stop
    exit 1
}

stop() {
    for daemon in slurmd slurmctld munged; do
        if [ -f "$dir/$daemon.pid" ]; then
            kill "$(cat "$dir/$daemon.pid")" 2>/dev/null || true
        fi
    done
}

case $action in
start) start ;;
stop) stop ;;
*) echo "start or stop, got $action" >&2; exit 2 ;;
esac
