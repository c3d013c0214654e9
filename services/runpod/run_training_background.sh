#!/usr/bin/env bash
# Trains in the background: goes on when the connection ends.
#   bash services/runpod/run_training_background.sh [SETTINGS]   start
#   bash services/runpod/run_training_background.sh status       whether it runs, and its last lines
#   bash services/runpod/run_training_background.sh stop         ends it with a checkpoint
# Watch it:  tail -f logs/training_*.log
set -euo pipefail
cd "$(dirname "$0")/../.."

pid_file=logs/training.pid
mkdir -p logs
pid="$(cat "$pid_file" 2>/dev/null || true)"
running() {
    [ -n "$pid" ] && kill -0 "$pid" 2>/dev/null && grep -qs run_training "/proc/$pid/cmdline"
}
newest() { find logs -name 'training_*.log' | sort | tail -n 1; }

case "${1:-}" in
    status)
        log="$(newest)"
        if running; then echo "running, process $pid, log ${log:-none yet}"; else echo "not running"; fi
        [ -z "$log" ] || tail -n 5 "$log"
        running
        ;;
    stop)
        if ! running; then
            echo "not running"
            exit 0
        fi
        kill -TERM "$pid"
        echo "asked process $pid to end with a checkpoint"
        while running; do sleep 0.2; done
        echo "ended"
        ;;
    *)
        if running; then
            echo "run_training_background.sh: process $pid trains already; see \`status\`, or \`stop\` it" >&2
            exit 2
        fi
        nohup setsid bash services/runpod/run_training.sh "$@" >logs/background.log 2>&1 </dev/null &
        echo $! >"$pid_file"
        echo "started, process $!; watch it with: tail -f logs/training_*.log"
        ;;
esac
