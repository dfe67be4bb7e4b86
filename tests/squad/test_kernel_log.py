"""What `kernel-log` finds is what SQUAD's own log parser finds: both over the same made-up logs."""

import json
import os
import random
import subprocess
import types

import pytest

from longshore import PROGRAM
from process import Process
from services import wait_for

CUT = "------------[ cut here ]------------"
TRACE = "---[ end trace 0000000000000000 ]---"
LINE = "=" * 66
PANIC = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b"
END = f"---[ end {PANIC} ]---"


def kernels(*messages, start=1.0, caller=""):
    """Lines as `printk` writes them."""
    return "".join(f"[{start + n / 1000:12.6f}]{caller} {message}\n" for n, message in enumerate(messages))


WARNING = [
    CUT,
    "refcount_t: underflow; use-after-free.",
    "WARNING: CPU: 1 PID: 77 at lib/refcount.c:28 refcount_warn+0xba/0x110",
    "Modules linked in: made_up fuse",
    "CPU: 1 UID: 0 PID: 77 Comm: (made_up) Not tainted 6.12.0-rc1 #14",
    "RIP: 0010:refcount_warn+0xba/0x110",
    "x23: ffff9b7275bc6f90 x22: ffff9b7275bcfb50 x21: fff00000cc80ef88",
    "Call Trace:",
    " ? __warn+0x7d/0x130",
    " put_thing+0x15/0x30 [made_up]",
    TRACE,
]


def report(name, what):
    return [
        LINE,
        f"BUG: {name}: {what} in do_it+0x1b/0x40",
        "Write of size 1 at addr ffff888100a2b3c4 by task made/77",
        "allocated by task 285 on cpu 0 at 38.982743s (0.007174s ago):",
        "value changed: 0x00 -> 0x01",
        LINE,
    ]


LINES = [
    "Oops: 0002 [#1] PREEMPT SMP",
    "Internal error: Oops - BUG: 00000000f2000800 [#1] SMP",
    "Internal error: synchronous external abort: 96000210 [#1] SMP",
    "Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008",
    "Unhandled fault: page domain fault (0x01b) at 0x76f6a000",
    "WARNING: suspicious RCU usage",
    "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kworker/1:2:77]",
    "kernel BUG at mm/slub.c:305!",
    "BUG: kernel NULL pointer dereference, address: 0000000000000008",
    "BUG: ünï cödé Ⅷ (12) 0xfg foo0x12 a-b_c__",
    "Oops: invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
    "invalid opcode: 0000 [#1] SMP",
    "BUG: " + "long words " * 60,
    "WARNING:",
    "Oops:+",
    PANIC,
    "made_up: " + PANIC,
    "Kernel panic - ",
    "a=b ==",
    "plain 1.25s words",
]
BLOCKS = [
    WARNING,
    [CUT, TRACE],
    [CUT, "kernel BUG at mm/slub.c:305!", "Internal error: Oops - BUG: 00000000f2000800 [#1] SMP", TRACE],
    report("KASAN", "slab-out-of-bounds"),
    report("KCSAN", "data-race"),
    report("KFENCE", "use-after-free read"),
    ["Internal error: Oops: 0000000096000004 [#1] PREEMPT SMP", "pc : probe+0x10/0x80", "WARNING: inside", TRACE],
    [PANIC, "CPU: 0 PID: 1 Comm: swapper Tainted: G W", "Call trace:", " panic+0x1/0x2", END],
]
TWICE = kernels(*WARNING) + kernels(*WARNING, start=9) + kernels("BUG: one", "BUG: one", "BUG: one") * 2

LOGS = {
    "nothing": kernels("Linux version 6.12.0", "plain") + "WARNING: not the kernel's\n",
    "lines": kernels(*LINES),
    "no_line_end": kernels("BUG: last").rstrip("\n"),
    "callers": kernels(*LINES, caller="[  T123]") + kernels(*WARNING, caller="[    C0]"),
    "callers_apart": kernels(*WARNING, *report("KASAN", "x"), caller=" [ T1]"),
    "prefixes": "".join(f"<4>{line}\n" for line in kernels(*WARNING, *LINES).splitlines()),
    "other_output": kernels(*WARNING).replace("\n", "\nsome test's output\n"),
    "blocks": "".join(kernels(*block, start=10 * n) for n, block in enumerate(BLOCKS)),
    "blocks_without_end": "".join(kernels(*block[:-1], start=10 * n) for n, block in enumerate(BLOCKS)),
    "blocks_without_beginning": "".join(kernels(*block[1:], start=10 * n) for n, block in enumerate(BLOCKS)),
    "ends_on_one_line": kernels(f"{CUT} WARNING: x {TRACE}", f"x {CUT}", f"{TRACE} {PANIC}", f"{CUT}{TRACE}"),
    "panic_ends": kernels(PANIC, "x", "---[ end Kernel panic - one ]---[", "---[ end Kernel panic - not", PANIC, "--- end " + PANIC),
    "several": TWICE,
    "many": "".join(kernels("WARNING: again", start=n) for n in range(90)),
    "carriage_returns": kernels(*LINES, *WARNING, *report("KASAN", "x")).replace("\n", "\r\n"),
    "colours": kernels(*(f"\x1b[31m{line}\x1b[0m" for line in LINES)),
    "prompt": kernels(*WARNING) + "board login: root\n" + kernels(*WARNING, "BUG: late", start=5),
    "prompt_in_a_block": kernels(*WARNING[:4]) + "root@board:~# x\n" + kernels(*WARNING[4:], start=5),
    "prompt_in_a_line": kernels("BUG: early") + "[    2.0] BUG: console:/ [    3.0] BUG: late\nroot@x:/#\n",
    "stamps": "[ 1.0]BUG: a\n[1.] BUG: b\n[ 1 . 2 ] BUG: c\n[Thu Jan  1 00:00:12 1970] BUG: d\n[ 1.0] [ 2.0] " + PANIC + "\n",
    "big": kernels(*WARNING[:-1], *(f"filler {'wide ' * 150}{n}" for n in range(1500)), TRACE),
}


def mixed(seed):
    """Blocks, lines and pieces of them in any order."""
    chance = random.Random(seed)
    pieces = [[line] for line in LINES] + BLOCKS + [[CUT], [TRACE], [LINE], [END], ["a=b"]]
    log = ""
    for number in range(chance.randint(1, 30)):
        piece = chance.choice(pieces)
        if chance.random() < 0.4:
            begin = chance.randrange(len(piece))
            piece = piece[begin : chance.randint(begin, len(piece))]
        log += kernels(*piece, start=10 * number, caller=chance.choice(["", "", "[  T1]"]))
        log += chance.choice(["", "", "", "output = x\n", "board login:\n", "[ 3.3] "])
    return log


LOGS.update({f"mixed{seed}": mixed(seed) for seed in range(40)})


class Ordered(dict):
    """Instead of SQUAD's set, whose order is another in each run: the order in which the findings come."""

    def add(self, member):
        self[member] = True


def of_squad(log):
    """What SQUAD's plugin would store."""
    import django

    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "squad.settings")
    django.setup()
    from squad.plugins import linux_log_parser
    from squad.plugins.lib import base_log_parser

    base_log_parser.set = Ordered
    found = set()

    class Parser(linux_log_parser.Plugin):
        def create_squad_tests_from_name_log_dict(self, suite, testrun, plain, hashed):
            for tests, between in ((plain, "\n"), (hashed, "\n---\n")):
                for name, texts in tests.items():
                    text = between.join(list(texts)[: base_log_parser.MAX_LOG_ENTRIES])
                    found.add((suite.slug, name, text[: base_log_parser.MAX_LOG_LENGTH]))

    def suite(slug):
        return types.SimpleNamespace(slug=slug), False

    project = types.SimpleNamespace(suites=types.SimpleNamespace(get_or_create=suite))
    tests = types.SimpleNamespace(filter=lambda **_: types.SimpleNamespace(exists=lambda: False))
    run = types.SimpleNamespace(log_file=log, tests=tests, build=types.SimpleNamespace(project=project))
    Parser().postprocess_testrun(run)
    return found


@pytest.fixture(scope="module")
def of_longshore(tmp_path_factory):
    """What Longshore's workers publish of each log: `(suite, name, log)`."""
    folder = tmp_path_factory.mktemp("kernel_log")
    for name, log in LOGS.items():
        (folder / "results" / name).mkdir(parents=True)
        (folder / "results" / name / "kernel.log").write_text(log, newline="")
    config = folder / "longshore.toml"
    config.write_text(
        '[backends.files]\nkind = "directory"\npath = "results"\n[projects."*"]\nplugins = ["kernel-log"]\n'
        '[http]\nlisten = "127.0.0.1:0"\n'
    )
    environment = {"PATH": os.environ["PATH"], "LONGSHORE_CONFIG": str(config)}

    def longshore(*arguments):
        done = subprocess.run(
            [PROGRAM, *arguments], cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        return done.stdout

    longshore("migrate")
    for name in LOGS:
        longshore("enqueue", "fetch", "--backend", "files", "--id", name, "--target", f"lab/log/{name}/here")
    workers = [
        Process(pool, [PROGRAM, "run", "--pool", pool], environment, folder / f"{pool}.log", cwd=folder)
        for pool in ("fetch", "postprocess")
    ]
    try:

        def complete():
            for worker in workers:
                worker.expect_running()
            jobs = json.loads(longshore("testjob", "list", "--json", "--limit", "1000"))
            return [job["state"] for job in jobs] == ["complete"] * len(LOGS)

        wait_for("all logs' findings", complete)
        found = {}
        for name in LOGS:
            lines = longshore("testjob", "results", f"files/{name}", "--json").splitlines()
            tests = [json.loads(line) for line in lines]
            found[name] = {(test["suite"], test["name"], test["log"]) for test in tests}
        return found
    finally:
        for worker in workers:
            worker.kill()


@pytest.mark.parametrize("name", LOGS)
def test_the_same_findings_as_squads(of_longshore, name):
    theirs = of_squad(LOGS[name])
    assert of_longshore[name] == theirs
    assert theirs or name in ("nothing",) or name.startswith("mixed")
