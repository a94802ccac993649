#!/usr/bin/env python3
"""Prints how many tests a JUnit report has, how many failed, and how many were skipped."""

import sys
import xml.etree.ElementTree

suites = list(xml.etree.ElementTree.parse(sys.argv[1]).getroot().iter("testsuite"))


def total(*names):
    return sum(int(suite.get(name, 0)) for suite in suites for name in names)


print(total("tests"), total("failures", "errors"), total("skipped"))
