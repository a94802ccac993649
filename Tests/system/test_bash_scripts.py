"""What scripts do beside the client for bash: options of the shell, traps, coprocesses, variables, names."""

import os
import pathlib
import signal
import subprocess

import pytest
from harness.schema import PROTOCOL
from harness.waiting import GENEROUS_SECONDS, wait_until

CLIENT = PROTOCOL / "clients/bash/sidelock.bash"
SOURCED = """
. "$1"
sidelock_open "$2"
"""


@pytest.fixture
def script(lab):
    """Starts a script, in a session of its own, with the client and the socket as its arguments."""
    def start(daemon, text, *arguments):
        return lab.track(subprocess.Popen(
            ["bash", "-c", text, "script", str(CLIENT), str(daemon.socket_path), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True, start_new_session=True))
    return start


def run(process):
    out, err = process.communicate(timeout=GENEROUS_SECONDS)
    return process.returncode, out, err


CYCLE = SOURCED + """
sidelock_acquire -w 5 -- "$3" other
sidelock_check "$3"
sidelock_token "$3" other
sidelock_valid "$3"
sidelock_held "$3"
sidelock_release "$3"
sidelock_with -n -- "$3" -- true || true
sidelock_with -n --as label "$3" -- sidelock_check label
if sidelock_held "$3"; then echo "still held"; fi
echo done
"""
NAMES = ["a b", "*", "?[a-z]*", "'", '"', "\\", "\\n", "a\nb\n", "$(touch gone)", "`touch gone`", "${HOME}", "a]b", "x[$(touch gone)]", "@", "!", "~", "#", "a;b|c&d",
         "\t", "-", "%s%n", "{a,b}", "é🔒", "x" * 512]


@pytest.mark.parametrize("name", NAMES)
def test_any_name_is_a_name(lab, script, tmp_path, name):
    daemon = lab.daemon()
    text = "set -euo pipefail\ncd " + str(tmp_path) + CYCLE.replace('sidelock_with -n -- "$3" -- true || true', "")
    process = script(daemon, text.replace('-n --as label "$3"', '-n --as label other "$3"').replace("sidelock_with", "sidelock_with --meta x"), name)
    assert run(process) == (0, "done\n", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [
    "set -euo pipefail", "set -Eeuo pipefail; trap 'echo an error' ERR", "IFS=", "IFS=,", "IFS=$'\\n'", "IFS=x", "set -f", "set -C", "set -m", "set -T; trap : DEBUG",
    "set -o posix", "shopt -s nocasematch", "shopt -s nullglob failglob extglob dotglob", "shopt -s lastpipe inherit_errexit", "shopt -s localvar_inherit",
    "export LC_ALL=C.UTF-8", "unset LANG LC_ALL", "cd /; PATH=/usr/bin:/bin", "exec 3<&0", "trap '' PIPE", "trap '' TERM INT HUP CHLD", "trap 'echo bye >/dev/null' EXIT"])
def test_options_of_the_shell_change_nothing(lab, script, options):
    daemon = lab.daemon()
    text = options + SOURCED + """
sidelock_acquire -w 5 orders other
sidelock_token orders other
sidelock_held orders
sidelock_release orders
status=0
sidelock_with -n orders -- sidelock_check orders || status=$?
if sidelock_held orders; then echo "still held"; fi
sidelock_close
echo "done $status"
"""
    assert run(script(daemon, text)) == (0, "done 0\n", "")


@pytest.mark.parametrize("options", ["set -f", "set -o posix", "set -m", "shopt -s nullglob"])
def test_the_connection_keeps_nothing_open_whatever_the_options(lab, script, tmp_path, options):
    daemon = lab.daemon()
    process = script(daemon, f"{options}\nexec 9>{tmp_path}/mine" + SOURCED + """
sidelock_acquire orders
echo "$_sl_socat"
read -r || true
""")
    socat = int(process.stdout.readline())
    wait_until(lambda: "socat" in os.readlink(f"/proc/{socat}/exe"), "socat")
    assert not [path for path in pathlib.Path(f"/proc/{socat}/fd").iterdir() if "mine" in os.readlink(path)]
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0


def test_variables_of_a_script_are_its_own(lab, script):
    """What a body and a callback set is set when they have returned, and changes nothing in the client."""
    daemon = lab.daemon()
    names = ("label status options handle name names id ids index limit params text rest path line call kept failed on_lost message reason token key value "
             "number method found places timed now sent next end left time fault run fd own code").split()
    text = "set -euo pipefail\n" + SOURCED + f"""
names=({' '.join(names)})
lost() {{ set_all "by the callback"; }}
set_all() {{ local __n; for __n in {' '.join(names)}; do printf -v "$__n" '%s' "$1"; done; }}
body() {{ set_all "by the body"; }}
sidelock_with orders -- body
for variable in {' '.join(names)}; do [ "${{!variable}}" = "by the body" ] || echo "$variable is ${{!variable}}"; done
sidelock_acquire -n orders
sidelock_release orders
sidelock_acquire -n --max-hold 0.001 --on-lost lost short
while sidelock_held short; do sidelock_pump 0.01; done
for variable in {' '.join(names)}; do [ "${{!variable}}" = "by the callback" ] || echo "$variable is ${{!variable}}"; done
sidelock_release short || echo "$SIDELOCK_LOST"
"""
    assert run(script(daemon, text)) == (0, "max_hold\n", "")


def test_readonly_variables_of_a_script_are_not_in_the_way(lab, script):
    daemon = lab.daemon()
    text = "readonly label=1 status=2 options=3 handle=4 name=5 id=6 index=7 limit=8 text=9 rest=1 path=2 line=3 params=4 code=5 key=6\nset -euo pipefail\n" + CYCLE
    assert run(script(daemon, text, "orders")) == (0, "done\n", "")


@pytest.mark.parametrize("body, status", [("false; echo went on", 1), ("(exit 7); echo went on", 7), ("sidelock_check nothing; echo went on", 2)])
def test_a_body_that_fails_ends_a_script_with_errexit(lab, script, body, status):
    daemon = lab.daemon()
    text = "set -euo pipefail\n" + SOURCED + f"body() {{ echo begun; {body}; }}\nsidelock_with orders -- body\necho 'went on'\n"
    code, out, err = run(script(daemon, text))
    assert (code, out) == (status, "begun\n"), err
    daemon.client().acquire("orders")


def test_without_errexit_the_status_of_the_body_is_told(lab, script):
    daemon = lab.daemon()
    text = SOURCED + "body() { false; return 7; }\nsidelock_with orders -- body\necho $?\nif sidelock_with orders -- body; then echo no; else echo $?; fi\n"
    assert run(script(daemon, text)) == (0, "7\n7\n", "")


def test_a_script_that_ignores_signals_can_close(lab, script):
    daemon = lab.daemon()
    process = script(daemon, "trap '' TERM HUP INT PIPE\n" + SOURCED + """
sidelock_acquire orders
sidelock_close
echo closed
read -r || true
""")
    assert process.stdout.readline() == "closed\n"
    daemon.client().acquire("orders")
    process.stdin.close()
    assert process.wait(GENEROUS_SECONDS) == 0


def test_a_script_that_ends_may_give_back(lab, script):
    daemon = lab.daemon()
    text = "set -euo pipefail\ntrap 'sidelock_release orders; echo released' EXIT\n" + SOURCED + "sidelock_acquire orders\nfalse\n"
    assert run(script(daemon, text)) == (1, "released\n", "")


@pytest.mark.parametrize("exit_trap", ["", "trap 'sidelock_release own; echo released' EXIT\n"])
@pytest.mark.parametrize("wait", ["sidelock_acquire orders", "while true; do sidelock_pump 1000; done", "sidelock_with --as mine customers -- sidelock_acquire orders"])
def test_a_trap_may_end_a_script_that_waits(lab, script, wait, exit_trap):
    daemon = lab.daemon()
    holder = daemon.client()
    token = holder.acquire("orders")
    process = script(daemon, "set -euo pipefail\ntrap 'exit 5' TERM\n" + exit_trap + SOURCED + f"sidelock_acquire own\necho begun\n{wait}\n")
    assert process.stdout.readline() == "begun\n"
    if "orders" in wait:
        wait_until(lambda: holder.call("inspect", name="orders")["waiting"] == 1, "its wait")
    process.terminate()
    assert process.wait(GENEROUS_SECONDS) == 5
    holder.acquire("own")
    holder.release("orders", token)
    holder.acquire("orders")


COPROCESSES = {
    "before": ("coproc MINE { cat; }\n", ""), "after": ("", "{ coproc MINE { cat; }; } 2>/dev/null\n"),
    "before, and ended": ("coproc MINE { cat; }\nexec {MINE[1]}>&-; wait\n", "{ coproc MINE { cat; }; } 2>/dev/null\n")}


@pytest.mark.parametrize("when", COPROCESSES)
def test_a_coprocess_of_the_script_goes_on(lab, script, when):
    daemon = lab.daemon()
    before, after = COPROCESSES[when]
    process = script(daemon, before + SOURCED + "sidelock_acquire orders\n" + after + """
for word in one two; do
  echo "$word" >&"${MINE[1]}"
  read -r -t 60 -u "${MINE[0]}" answer
  echo "$answer"
  sidelock_check orders
done
sidelock_release orders
sidelock_acquire -n orders
echo "again"
""")
    code, out, err = run(process)
    assert (code, out) == (0, "one\ntwo\nagain\n"), err


@pytest.mark.parametrize("child", ["(sleep 1000; true) &", "f() { sleep 1000; true; }; f &", "exec 8< <(sleep 1000; true)", "true | { sleep 1000; true; } &"])
@pytest.mark.parametrize("beside", ["", "{ coproc MINE { sleep 1000; true; }; } 2>/dev/null"])
def test_a_lock_ends_with_the_script_that_took_it(lab, script, child, beside):
    """Whatever it has started, and with another coprocess, of which bash knows no more than one."""
    daemon = lab.daemon()
    process = script(daemon, SOURCED + f"""
sidelock_acquire orders
echo held
{beside}
{{ {child} }} >/dev/null 2>&1 </dev/null
kill -9 $$
""")
    assert process.stdout.readline() == "held\n"
    try:
        daemon.client().acquire("orders")
    finally:
        os.killpg(process.pid, signal.SIGKILL)


def test_substitutions_and_subshells_have_locks_of_their_own(lab, script):
    daemon = lab.daemon()
    text = "set -euo pipefail\n" + SOURCED + """
sidelock_acquire orders
mine=$SIDELOCK_TOKEN
other=$(sidelock_acquire -n customers; echo "$SIDELOCK_TOKEN")
[ -n "$other" ]
(if sidelock_acquire -n orders; then echo "a subshell got it"; else echo "$SIDELOCK_REASON"; fi)
sidelock_token orders
[ "$REPLY" = "$mine" ]
sidelock_with -n nested -- sidelock_with -n deeper -- sidelock_with -n --as third deepest -- sidelock_check third
sidelock_release orders
echo done
"""
    assert run(script(daemon, text)) == (0, "busy\ndone\n", "")
