#!/usr/bin/env bash
# A real SLURM on one Debian machine, for developers and CI: munge, MariaDB, slurmdbd, slurmctld, and a slurmd
# for each virtual node.
#
#   slurm/dev-cluster.sh up       install what is missing, start what is down (half a minute at first)
#   slurm/dev-cluster.sh down     stop everything that `up` started
#   slurm/dev-cluster.sh purge    the same, and delete its state, accounts and configuration
#   slurm/dev-cluster.sh status   nodes and jobs; exit code 1 where it is down
#
# Two nodes n1 and n2, each with 4 CPUs, 8000 MB and 2 simulated GPUs (twins of /dev/null); partitions `main`,
# and `low`, whose jobs a job of `main` preempts. Needs root and no systemd. There are no cgroups: neither memory
# nor cores are enforced.
set -euo pipefail
ROOT=${LLMZERO_DEV_CLUSTER:-/var/tmp/llmzero-cluster}
CONF=/etc/slurm
DB_PORT=16820
HOST=$(hostname -s)
PACKAGES=(slurmctld slurmd slurm-client munge slurmdbd mariadb-server)

say() { echo "dev-cluster: $*" >&2; }
die() {
  say "$*"
  tail -n 15 "$ROOT"/log/*.log >&2 2>/dev/null || true
  exit 1
}
wait_for() { # SECONDS WHAT COMMAND...
  local tries=$(($1 * 20)) what=$2
  shift 2
  for ((i = 0; i < tries; i++)); do
    "$@" >/dev/null 2>&1 && return 0
    sleep 0.05
  done
  die "$what does not come up"
}
alive() { [ -s "$ROOT/run/$1.pid" ] && kill -0 "$(cat "$ROOT/run/$1.pid")" 2>/dev/null; }

install_packages() {
  local missing=() package
  for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  say "installing ${missing[*]}"
  apt-get update -qq
  local policy=/usr/sbin/policy-rc.d made=0 # the packages must not start their services themselves
  [ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy && made=1; }
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" \
    >/dev/null </dev/null
  [ $made = 0 ] || rm -f $policy
}

write_configuration() {
  mkdir -p $CONF
  for gpu in 0 1; do [ -e /dev/fakegpu$gpu ] || mknod -m 666 /dev/fakegpu$gpu c 1 3; done
  printf 'AutoDetect=off\nNodeName=n[1-2] Name=gpu File=/dev/fakegpu[0-1]\n' >$CONF/gres.conf
  # cred_expire: a requeued job waits for so many seconds before it starts again, 120 where it is not set.
  cat >$CONF/slurm.conf <<CONF
ClusterName=llmzero
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=$ROOT/state
SlurmdSpoolDir=$ROOT/spool/%n
SlurmctldPidFile=$ROOT/run/slurmctld.pid
SlurmdPidFile=$ROOT/run/slurmd-%n.pid
SlurmctldLogFile=$ROOT/log/slurmctld.log
SlurmdLogFile=$ROOT/log/slurmd-%n.log
SwitchType=switch/none
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
MinJobAge=600
SlurmdTimeout=30
SlurmctldTimeout=60
GresTypes=gpu
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStorageTRES=gres/gpu
NodeName=n[1-2] NodeHostname=$HOST NodeAddr=127.0.0.1 Port=[17001-17002] \
  CPUs=4 RealMemory=8000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
CONF
  (
    umask 077
    cat >$CONF/slurmdbd.conf <<CONF
AuthType=auth/munge
DbdHost=$HOST
DbdAddr=127.0.0.1
SlurmUser=root
LogFile=$ROOT/log/slurmdbd.log
PidFile=$ROOT/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort=$DB_PORT
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm_acct_db
CONF
  )
}

munge_works() { munge -n | unmunge; }

start_munge() {
  munge_works >/dev/null 2>&1 && return
  mkdir -p /run/munge && chown munge:munge /run/munge && chmod 755 /run/munge
  if [ ! -s /etc/munge/munge.key ]; then
    (umask 077 && head -c 128 /dev/urandom >/etc/munge/munge.key) && chown munge:munge /etc/munge/munge.key
  fi
  runuser -u munge -- /usr/sbin/munged --force 9>&-
  wait_for 10 munged munge_works
}

sql() { mariadb --no-defaults -u root --socket="$ROOT/db/sock" -e "$1"; }

start_accounting() {
  if ! alive mariadb; then
    chown mysql:mysql "$ROOT/db"
    [ -d "$ROOT/db/data/mysql" ] || mariadb-install-db --no-defaults --user=mysql --datadir="$ROOT/db/data" \
      --skip-test-db --auth-root-authentication-method=normal --skip-name-resolve --innodb-log-file-size=16M \
      >"$ROOT/log/mariadb-install.log" 2>&1
    chown mysql "$ROOT/run"
    setsid mariadbd --no-defaults --user=mysql --datadir="$ROOT/db/data" --socket="$ROOT/db/sock" \
      --pid-file="$ROOT/run/mariadb.pid" --bind-address=127.0.0.1 --port=$DB_PORT --skip-name-resolve \
      --skip-log-bin --performance-schema=off --innodb-buffer-pool-size=32M --innodb-log-file-size=16M \
      --innodb-flush-log-at-trx-commit=0 >"$ROOT/log/mariadb.log" 2>&1 </dev/null 9>&- &
    wait_for 60 mariadbd mariadb-admin --no-defaults -u root --socket="$ROOT/db/sock" ping
    sql "CREATE DATABASE IF NOT EXISTS slurm_acct_db;
      CREATE USER IF NOT EXISTS 'slurm'@'127.0.0.1' IDENTIFIED BY 'slurm';
      GRANT ALL ON slurm_acct_db.* TO 'slurm'@'127.0.0.1';"
  fi
  alive slurmdbd || slurmdbd 9>&-
  wait_for 60 slurmdbd sacctmgr -n show cluster
  sacctmgr -n show cluster format=cluster | grep -qw llmzero || sacctmgr -i -Q add cluster llmzero >/dev/null
}

nodes_up() { [ "$(sinfo -h -N -p main -o %T | grep -cE '^(idle|mixed|allocated|completing)$')" = 2 ]; }
accounts() { sacct -n -X -o State | grep -q .; }

start_slurm() {
  alive slurmctld || slurmctld 9>&-
  wait_for 30 slurmctld scontrol ping
  for node in n1 n2; do
    alive "slurmd-$node" || { mkdir -p "$ROOT/spool/$node" && slurmd -N $node 9>&-; }
  done
  if ! nodes_up; then
    sleep 0.3
    scontrol update nodename='n[1-2]' state=resume >/dev/null 2>&1 || true
    wait_for 45 "nodes" nodes_up
  fi
}

up() {
  [ "$(id -u)" = 0 ] || die "needs root"
  exec 9>/run/lock/llmzero-dev-cluster.lock
  flock 9 # two of us at once: one waits
  install_packages
  mkdir -p "$ROOT"/{log,run,state,spool,db}
  alive slurmctld || write_configuration
  # processes of a stage meet at their node's name
  grep -q '^127.0.0.1 n1 n2$' /etc/hosts || echo '127.0.0.1 n1 n2' >>/etc/hosts
  start_munge
  start_accounting
  start_slurm
  wait_for 20 srun srun -Q -t 1 true
  wait_for 20 sacct accounts
  say "ready: $(sinfo -h -N -p main -o '%N %T' | tr '\n' ' ')"
}

stop() {
  local file="$ROOT/run/$1.pid" pid
  [ -s "$file" ] || return 0
  pid=$(cat "$file")
  kill "$pid" 2>/dev/null || return 0
  for ((i = 0; i < 200; i++)); do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.05
  done
  kill -KILL "$pid"
}

down() {
  if alive slurmctld; then
    scancel -Q -u root || true
    for ((i = 0; i < 60; i++)); do [ -z "$(squeue -h)" ] && break || sleep 0.1; done
  fi
  for daemon in slurmd-n1 slurmd-n2 slurmctld slurmdbd mariadb; do stop $daemon; done
  runuser -u munge -- /usr/sbin/munged --stop >/dev/null 2>&1 || true
}

status() {
  alive slurmctld || { say "down" && exit 1; }
  sinfo -N -o '%N %P %T %C %G'
  squeue
}

case "${1:-}" in
  up | down | status) "$1" ;;
  purge) down && rm -rf "$ROOT" $CONF/slurm.conf $CONF/gres.conf $CONF/slurmdbd.conf ;;
  *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
