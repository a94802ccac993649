#!/usr/bin/env python3
"""Reads a JUnit report: prints how many tests it has, how many failed and how many were skipped, and then those two kinds,
one a line, each with the beginning of what went wrong."""

import sys
import xml.etree.ElementTree

root = xml.etree.ElementTree.parse(sys.argv[1]).getroot()
suites = list(root.iter("testsuite"))


def total(*names):
    return sum(int(suite.get(name, 0)) for suite in suites for name in names)


print(total("tests"), total("failures", "errors"), total("skipped"))
for case in root.iter("testcase"):
    for child in case:
        if child.tag in ("failure", "error", "skipped"):
            message = " ".join(child.get("message", "").split())[:200]
            print(f"{case.get('classname')}.{case.get('name')}: {message}")
            break
