#!/usr/bin/env bash
# A real Slurm on this one machine, for tests and CI: its daemons, ports, keys and logs are its own, in one folder.
#   scripts/slurm_local.sh start|stop|status [FOLDER]     FOLDER: $GOC_SLURM_DIR or /run/goc-slurm
#   eval "$(scripts/slurm_local.sh start)"                start it, and let this shell's sbatch, squeue, ... speak to it
set -euo pipefail

usage="usage: scripts/slurm_local.sh start|stop|status [FOLDER]"
action=${1:-}
folder=$(realpath -m "${2:-${GOC_SLURM_DIR:-/run/goc-slurm}}")
export SLURM_CONF=$folder/slurm.conf
MARK="# made by scripts/slurm_local.sh" # first line of slurm.conf: this folder is ours to remove
DAEMONS="slurmd slurmctld munged"       # in the order they are stopped
PATIENCE=60                             # seconds that anything may take
CPUS=$(env -u OMP_NUM_THREADS nproc)    # nproc obeys that variable

say() { echo "$*" >&2; }
die() {
  say "slurm_local: $*"
  exit 1
}

# ours: the folder is absent, or nobody else can have put anything into it
ours() { [[ ! -e $folder || (-d $folder && -O $folder && $((8#$(stat -c %a "$folder") & 8#022)) -eq 0) ]]; }

# daemon_pid NAME: the process of one of this folder's daemons, if it lives. A pid file may be older than the machine's last start.
daemon_pid() {
  local pid
  pid=$(cat "$folder/$1.pid" 2>/dev/null) && [[ -n $pid ]] || return 1
  [[ $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline") == "$1 "*"$folder/"* ]] && echo "$pid"
}

# wait_for COMMAND...: until it succeeds; fails when patience ends
wait_for() {
  local end=$((SECONDS + PATIENCE))
  until "$@"; do
    ((SECONDS < end)) || return 1
    sleep 0.2
  done
}

idle() { [[ $(timeout 5 sinfo --noheader --partition=debug --format=%T 2>/dev/null) =~ ^(idle|mixed|allocated)$ ]]; }
running() { daemon_pid munged >/dev/null && daemon_pid slurmctld >/dev/null && daemon_pid slurmd >/dev/null && idle; }
no_jobs() { [[ -z $(timeout 5 squeue --noheader 2>/dev/null) ]]; }
gone() { ! kill -0 "$1" 2>/dev/null; }

free_port() {
  local port
  while port=$((20000 + RANDOM % 10000)) && (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
  echo "$port"
}

configuration() {
  local node
  node=$(hostname -s)
  cat <<CONF
$MARK
ClusterName=goc
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits until its old credential has expired: 5 s instead of 120
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# nothing that needs cgroups, MPI, mail or a data base
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
MailProg=/bin/true
# each job has its own cores
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
# a job of the partition urgent takes the place of one of debug, which goes back to the queue
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
# quick, as tests wait for it; finished jobs can be asked for an hour
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
KillWait=2
MinJobAge=3600
# small, so that a test's sweep needs several arrays
MaxArraySize=3
ReturnToService=2
SlurmdParameters=config_overrides
NodeName=$node NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo) State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES OverSubscribe=NO MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=3
PartitionName=urgent Nodes=ALL OverSubscribe=NO MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
CONF
}

end_daemons() {
  local name pid
  if daemon_pid slurmctld >/dev/null; then
    timeout 10 scancel --user="$(id -un)" --full 2>/dev/null || true
    wait_for no_jobs || say "slurm_local: some jobs did not end"
  fi
  for name in $DAEMONS; do
    if pid=$(daemon_pid "$name"); then
      kill "$pid"
      wait_for gone "$pid" || kill -9 "$pid"
    fi
  done
}

stop() {
  end_daemons
  rm -rf "$folder"
}

fail() {
  end_daemons
  tail -n 20 "$folder"/*.log >&2 || true
  die "$* (the end of its logs is above; all of them are in $folder)"
}

start() {
  if running; then
    say "slurm_local: already running"
  else
    stop # what a start that failed, or a machine that died, left behind
    mkdir -p "$(dirname "$folder")"
    mkdir -m 700 "$folder" # fails if somebody was quicker
    mkdir "$folder/state" "$folder/spool"
    configuration >"$SLURM_CONF"
    (umask 077 && head -c 128 /dev/urandom >"$folder/munge.key")
    # --force: a folder that only root can enter is as good, as only root is served
    munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
      --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" 2>/dev/null || fail "munged does not start"
    slurmctld -f "$SLURM_CONF" || fail "slurmctld does not start"
    slurmd -f "$SLURM_CONF" || fail "slurmd does not start"
    wait_for running || fail "the node is not idle after $PATIENCE s"
    say "slurm_local: running, $CPUS CPUs, partitions debug and urgent"
  fi
  echo "export SLURM_CONF=$(printf %q "$SLURM_CONF")"
}

case $action in start | stop | status) ;; *) die "$usage" ;; esac
[[ $EUID -eq 0 ]] || die "must be root, to start Slurm's daemons"
ours || die "$folder: must be a folder of this user, that nobody else can write to; choose another folder"
for program in $DAEMONS sinfo; do
  command -v "$program" >/dev/null || die "no $program: apt-get update && apt-get install -y slurm-wlm munge"
done
[[ $folder != *[[:space:]]* ]] || die "$folder: Slurm allows no spaces in a path; choose another folder"
if [[ -n $(ls -A "$folder" 2>/dev/null) && $(head -n 1 "$SLURM_CONF" 2>/dev/null) != "$MARK" ]]; then
  die "$folder: holds something else; choose another folder"
fi

case $action in
start) start ;;
stop) stop ;;
status) if running; then sinfo; else die "not running in $folder"; fi ;;
esac
