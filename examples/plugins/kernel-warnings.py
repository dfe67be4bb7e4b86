#!/usr/bin/env python3
"""A plugin for test jobs in Python: the kernel's warnings by the function that gave them.

    [plugins.kernel-warnings]
    command = ["examples/plugins/kernel-warnings.py"]

The worker puts the module `longshore` where Python finds it. See docs/plugins.md.
"""

import collections
import re

from longshore import plugin

# [    1.200000] WARNING: CPU: 0 PID: 1 at kernel/foo.c:12 foo_init+0x10/0x20
WARNING = re.compile(r"WARNING: .* at \S+ ([\w.]+)\+0x")


def run(job):
    log = job.file("log")
    if log is None:
        job.problem("kernel-warnings: the test job has no log")
        return
    found = collections.defaultdict(list)
    with open(log, errors="replace") as lines:
        for line in lines:
            warning = WARNING.search(line)
            if warning:
                found[warning.group(1)].append(line)
    for function, lines in sorted(found.items()):
        job.test("kernel-warnings", function, "fail", log="".join(lines))
    job.metric("kernel-warnings", "number", sum(map(len, found.values())))
    with open("warnings.txt", "w") as report:
        for function, lines in sorted(found.items()):
            report.write("%6d %s\n" % (len(lines), function))
    job.attach("warnings.txt", mimetype="text/plain")


plugin.main(run)
