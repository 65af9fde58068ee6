"""Prints a program's completions for a shell: scripts/completions.py bash|zsh|fish killsnoopd|killsnoop.

Flags, their descriptions and their values come from the parsers; `make install` runs this.
"""

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from killsnoopd import cli, names
from killsnoopd.query import command

PARSERS = {
    "killsnoopd": (cli.parser(),),
    "killsnoop": (command.table_parser(), command.who_parser(), command.top_parser()),
}

_SIGNALS = ("all", "invalid", "0", *(name for name in names.SIGNALS if name.startswith("SIG") and "+" not in name))
# Words for a value, by its name in --help. A list has a name like SIGNAL[,SIGNAL].
WORDS = {
    "SIGNAL": _SIGNALS, "SIG": _SIGNALS, "CALL": names.SYSCALLS, "RULE": ("numbers",),
    "KEY=VALUE": ("signal=", "comm=", "uid=", "unit="),
    "TIME": ("today", "yesterday", "-1h", "-10min"),
}  # fmt: skip

_MACHINES = "machinectl list --no-legend 2>/dev/null"
_UNITS = "systemctl list-units --all --plain --no-legend --full 2>/dev/null"
# Values that the shell finds: arguments of bash's compgen, actions of zsh's _arguments, arguments of fish's complete.
BASH = {
    "FILE": "-f", "DIR": "-d", "UNIT": f"""-W "$({_UNITS} | cut -d' ' -f1)\"""",
    "MACHINE": f"""-W "$({_MACHINES} | cut -d' ' -f1)\"""",
    **dict.fromkeys(("PID", "TPID"), '-W "$(cd /proc && echo [0-9]*)"'),
}  # fmt: skip
ZSH = {
    "FILE": "_files", "DIR": "_directories", "UNIT": f'(${{(f)"$({_UNITS} | cut -d" " -f1)"}})',
    "MACHINE": f'(${{(f)"$({_MACHINES} | cut -d" " -f1)"}})',
    **dict.fromkeys(("PID", "TPID"), "_pids"),
}  # fmt: skip
FISH = {
    "FILE": "-r -F", "DIR": "-x -a '(__fish_complete_directories)'",
    "UNIT": f"""-x -a '({_UNITS} | string replace -r " .*" "")'""",
    "MACHINE": f"""-x -a '({_MACHINES} | string replace -r " .*" "")'""",
    **dict.fromkeys(("PID", "TPID"), "-x -a '(__fish_complete_pids)'"),
}  # fmt: skip


def value(action: argparse.Action) -> tuple[str, bool, tuple[str, ...]]:
    """The name of what a flag takes (`""`: nothing), whether that is a list, and the words for it."""
    if action.nargs == 0:
        return "", False, ()
    if action.choices:
        return action.option_strings[-1].lstrip("-").rpartition(".")[2], False, tuple(action.choices)
    name, is_list, _ = str(action.metavar).partition("[,")
    return name, bool(is_list), WORDS.get(name, ())


def description(action: argparse.Action) -> str:
    """The start of the text in --help."""
    return re.split(r"[;:(]|, such as", str(action.help))[0].strip()


def quoted(text: str) -> str:
    """A word of bash or zsh."""
    return "'" + text.replace("'", r"'\''") + "'"


def flags(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """The parser's flags, without its other arguments."""
    return [action for action in parser._actions if action.option_strings]


def bash(program: str) -> str:
    """A function of bash, and the call that registers it."""
    found = {action.option_strings[-1]: action for parser in PARSERS[program] for action in flags(parser)}
    cases, lists = [], []
    for action in found.values():
        name, is_list, words = value(action)
        if name:
            offered = f'-W "{" ".join(words)}"' if words else BASH.get(name, "")
            named = "\n\t\tcompopt -o filenames" if name in ("FILE", "DIR") else ""
            setting = f"set -- {offered}".rstrip() + named
            cases.append(f"\t{' | '.join(action.option_strings)})\n\t\t{setting}\n\t\t;;")
        if is_list:
            lists += action.option_strings

    def offered_flags(parser: argparse.ArgumentParser) -> str:
        # -o filenames is not set for these, because it would put a backslash before the sign.
        spelled = [
            option + ("=" if option.startswith("--") and action.nargs != 0 else "")
            for action in flags(parser)
            for option in action.option_strings
        ]
        return f'set -- -W "{" ".join(spelled)}"'

    others = f"\t\t{offered_flags(PARSERS[program][0])}"
    if program == "killsnoop":
        others = f"""\
		case ${{COMP_WORDS[1]}}:$word in
		who:-*) {offered_flags(PARSERS[program][1])} ;;
		top:-*) {offered_flags(PARSERS[program][2])} ;;
		*:-*) {offered_flags(PARSERS[program][0])} ;;
		who:*)
			set -- -f {BASH["UNIT"]}
			compopt -o filenames
			;;
		*)
			set -- -f -W "$( ((COMP_CWORD > 1)) || echo who top)"
			compopt -o filenames
			;;
		esac"""
    return f"""\
# bash completion for {program}(8)

_{program}() {{
	# bash breaks words at "=", unless COMP_WORDBREAKS lacks it: take the word from the line.
	local line=${{COMP_LINE:0:COMP_POINT}} flag head=
	local word=${{line##*[[:space:]]}}
	if [[ $word == --*=* ]]; then
		flag=${{word%%=*}} word=${{word#*=}}
		[[ $COMP_WORDBREAKS == *=* ]] || head=$flag=
	else
		flag=${{COMP_WORDS[COMP_CWORD - 1]}}
	fi
	local last=$word
	case $flag in
	{" | ".join(lists)}) last=${{word##*,}} ;;
	esac
	case $flag in
{chr(10).join(cases)}
	*)
{others}
		;;
	esac
	head+=${{word%"$last"}}
	[[ $COMP_WORDBREAKS != *=* ]] || head=${{head##*=}}
	mapfile -t COMPREPLY < <(compgen -P "$head" "$@" -- "$last")
	if [[ ${{COMPREPLY[0]-}} == *= ]]; then
		compopt -o nospace
	fi
}}
complete -F _{program} {program}
"""


def zsh(program: str) -> str:
    """A function file of zsh."""

    def spec(action: argparse.Action) -> str:
        name, is_list, words = value(action)
        sign = "=" if name else ""
        said = description(action).replace("[", r"\[").replace("]", r"\]")
        taken = ""
        if name:
            listed = f"{{_values -s , {name} {' '.join(words)}}}" if is_list else f"({' '.join(words)})"
            taken = ":" + name.replace(":", r"\:") + ":" + (listed if words else ZSH.get(name, ""))
        options = [option + (sign if option.startswith("--") else "") for option in action.option_strings]
        alone = isinstance(action, argparse._VersionAction | argparse._HelpAction)
        repeated = isinstance(action, argparse._AppendAction)
        before = "(- *)" if alone else "*" if repeated else ""
        if len(options) == 1:
            return quoted(f"{before}{options[0]}[{said}]{taken}")
        before = before or f"({' '.join(action.option_strings)})"
        return f"{quoted(before)}{{{','.join(options)}}}{quoted(f'[{said}]{taken}')}"

    def arguments(parser: argparse.ArgumentParser, *others: str, indent: str = "\t") -> str:
        return f" \\\n{indent}".join([*map(spec, flags(parser)), *others])

    first = PARSERS[program][0]
    if program == "killsnoopd":
        return f"#compdef {program}\n\n_arguments \\\n\t{arguments(first)}\n"
    who = arguments(
        PARSERS[program][1], "'1:who:(who)'", quoted(f"2:UNIT:{ZSH['UNIT']}"), "'3:FILE:_files'", indent="\t\t"
    )
    top = arguments(PARSERS[program][2], "'1:top:(top)'", "'2:FILE:_files'", indent="\t\t")
    return f"""\
#compdef {program}

if [[ ${{words[2]}} == who && CURRENT -gt 2 ]]; then
	_arguments \\
		{who}
	return
fi
if [[ ${{words[2]}} == top && CURRENT -gt 2 ]]; then
	_arguments \\
		{top}
	return
fi
_arguments -s \\
	{arguments(first, "'1:FILE, who or top:{_files; compadd who top}'")}
"""


def _long(action: argparse.Action) -> str:
    return action.option_strings[-1]


# When a flag is offered, by the parsers of PARSERS that do not know it.
FISH_ONLY = {
    frozenset(): "",
    frozenset({1}): "-n 'not __fish_seen_subcommand_from who' ",
    frozenset({1, 2}): "-n 'not __fish_seen_subcommand_from who top' ",
    frozenset({0, 1}): "-n '__fish_seen_subcommand_from top' ",
}


def fish(program: str) -> str:
    """Calls of fish's complete."""
    lines = [f"# fish completion for {program}(8)", ""]
    if program == "killsnoopd":
        lines.append("complete -c killsnoopd -f")
    else:
        lines += [
            "complete -c killsnoop -n __fish_is_first_token -a who -d 'What ended it last'",
            "complete -c killsnoop -n __fish_is_first_token -a top -d 'What has the most kills'",
            f"complete -c killsnoop -n '__fish_seen_subcommand_from who' {FISH['UNIT'].removeprefix('-x ')}",
        ]
    found = {action.option_strings[-1]: action for parser in reversed(PARSERS[program]) for action in flags(parser)}
    for flag, action in found.items():
        name, _, words = value(action)
        missing = {n for n, parser in enumerate(PARSERS[program]) if flag not in map(_long, flags(parser))}
        only = FISH_ONLY[frozenset(missing)]
        options = " ".join(
            f"-l {option[2:]}" if option.startswith("--") else f"-s {option[1:]}" for option in action.option_strings
        )
        taken = "" if not name else f" -x -a '{' '.join(words)}'" if words else f" {FISH.get(name, '-x')}"
        said = description(action)
        text = (said[:1].upper() + said[1:]).replace("'", r"\'")
        lines.append(f"complete -c {program} {only}{options}{taken} -d '{text}'")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print({"bash": bash, "zsh": zsh, "fish": fish}[sys.argv[1]](sys.argv[2]), end="")
