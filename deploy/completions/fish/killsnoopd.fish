# fish completion for killsnoopd(8)

set -l signals 'all invalid 0 (kill -l | string split " " | string replace POLL IO)'

complete -c killsnoopd -f
complete -c killsnoopd -l web.listen-address -x -d 'Address to serve metrics on'
complete -c killsnoopd -l web.systemd-socket -d 'Serve on the sockets passed by systemd'
complete -c killsnoopd -l web.telemetry-path -x -d 'Path of the metrics'
complete -c killsnoopd -l web.config.file -r -F -d 'TLS, users and HTTP headers'
complete -c killsnoopd -l web.max-requests -x -d 'Scrapes answered at a time'
complete -c killsnoopd -l events.target -x -a 'auto journal stdout none' -d 'Where to log events'
complete -c killsnoopd -l events.exclude-signal -x -a $signals -d 'Count these signals without logging them'
complete -c killsnoopd -l events.include-signal -x -a $signals -d 'Log these signals even if excluded'
complete -c killsnoopd -l events.rate -x -d 'Events logged per second for each uid'
complete -c killsnoopd -l events.burst -x -d 'Events that a uid may log at once'
complete -c killsnoopd -l events.grace-period -x -d 'SIGKILL within this time after SIGTERM is an escalation'
complete -c killsnoopd -l metrics.max-series -x -d 'Sets of comm, signal and result with their own counter'
complete -c killsnoopd -l metrics.series-ttl -x -d 'Idle seconds after which a set may lose its counter'
complete -c killsnoopd -l metrics.fold -x -a 'numbers' -d 'Show names that match as one comm'
complete -c killsnoopd -l probe.syscalls -x -d 'System calls to watch' \
    -a 'kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_send_signal'
complete -c killsnoopd -l probe.self-signals -d 'Also count tkill and tgkill within one process'
complete -c killsnoopd -l probe.ring-size -x -d 'Memory for events waiting to be logged'
complete -c killsnoopd -l probe.pin -x -a '(__fish_complete_directories)' -d 'Use the probe pinned there'
complete -c killsnoopd -l log.level -x -a 'debug info warning error' -d 'Minimum log level'
complete -c killsnoopd -l version -d 'Print the version'
complete -c killsnoopd -s h -l help -d 'List the flags'
