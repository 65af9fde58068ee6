# fish completion for killsnoop(8)

set -l units '(systemctl list-units --all --plain --no-legend --full 2>/dev/null | string replace -r " .*" "")'
set -l table 'not __fish_seen_subcommand_from who'

complete -c killsnoop -n __fish_is_first_token -a who -d 'Who killed it last'
complete -c killsnoop -n '__fish_seen_subcommand_from who' -a $units
complete -c killsnoop -l since -x -a 'today yesterday -1h -10min' -d 'Start time'
complete -c killsnoop -l until -x -a 'today yesterday -1h -10min' -d 'End time'
complete -c killsnoop -l version -d 'Print the version'
complete -c killsnoop -s h -l help -d 'List the flags'
complete -c killsnoop -n $table -s f -l follow -d 'Keep printing new events'
complete -c killsnoop -n $table -s x -l failed -d 'Only signals that could not be sent'
complete -c killsnoop -n $table -s p -l pid -x -a '(__fish_complete_pids)' -d 'Only signals that this process sent'
complete -c killsnoop -n $table -s T -l tpid -x -a '(__fish_complete_pids)' -d 'Only signals sent to this process'
complete -c killsnoop -n $table -s s -l signal -x -a 'all invalid 0 (kill -l | string split " " | string replace POLL IO)' -d 'Only these signals'
complete -c killsnoop -n $table -s u -l unit -x -a $units -d 'Only signals from or to this systemd unit'
complete -c killsnoop -n $table -s d -l deaths -d 'Also show deaths'
complete -c killsnoop -n $table -s o -l output -x -a 'table json' -d 'Output format'
