#!/usr/bin/env python3
"""Reads a JUnit report: prints how many tests it has, how many failed and how many were skipped, and then the names of
those two kinds, one a line."""

import sys
import xml.etree.ElementTree

root = xml.etree.ElementTree.parse(sys.argv[1]).getroot()
suites = list(root.iter("testsuite"))


def total(*names):
    return sum(int(suite.get(name, 0)) for suite in suites for name in names)


print(total("tests"), total("failures", "errors"), total("skipped"))
for case in root.iter("testcase"):
    if any(child.tag in ("failure", "error", "skipped") for child in case):
        print(f"{case.get('classname')}.{case.get('name')}")
