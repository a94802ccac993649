import Testing

@testable import AccessPolicy

@Suite struct PolicyTests {
  private func access(
    _ rules: [String], uid: UInt32? = 1000, groups: [UInt32]? = [1000], unit: PeerUnit = .named("x.service"),
    administrators: UInt32? = 500
  ) throws -> Access {
    AccessPolicy(rules: try rules.map(rule), administrators: administrators)
      .access(of: AccessPeer(uid: uid, groups: groups, unit: unit))
  }

  private func may(_ access: Access, _ right: AccessRight, _ name: String) -> Bool {
    access.may(right, Array(name.utf8))
  }

  @Test func withoutRulesEverybodyMayUseAndInspectAndAdministratorsMayBreak() throws {
    let anybody = try access([])
    #expect(may(anybody, .use, "a") && may(anybody, .inspect, "a") && !may(anybody, .break, "a"))
    #expect(anybody.mayAlways(.inspect))
    #expect(may(try access([], uid: 0), .break, "a"))
    #expect(may(try access([], groups: [1000, 500]), .break, "a"))
    let own = AccessPolicy(owner: 1000)
    #expect(own.access(of: AccessPeer(uid: 1000, groups: [])).may(.break, [0x61]))
    #expect(!own.access(of: AccessPeer(uid: 1001, groups: [])).may(.break, [0x61]))
    #expect(!may(try access([], groups: [1000, 500], administrators: nil), .break, "a"))
    #expect(!may(try access([], uid: nil, groups: nil), .break, "a"))
  }

  @Test(
    arguments: [
      ([], true), (["allow inspect * to everyone", "deny inspect * to everyone"], true),
      (["allow use,break * to everyone"], true), (["deny use * to everyone"], true),
      (["deny inspect a to everyone"], false), (["deny inspect * to everyone"], false),
      // A name that is allowed says nothing of the others.
      (["allow inspect a* to everyone"], true),
      (["allow inspect a* to everyone", "deny inspect * to everyone"], false),
      (["deny inspect a to everyone", "allow inspect * to everyone"], false),
      (["deny inspect * to user:1001"], true),
    ] as [([String], Bool)])
  func whoMayInspectEveryLock(rules: [String], mayAlways: Bool) throws {
    #expect(try access(rules).mayAlways(.inspect) == mayAlways)
    #expect(try access(rules).mayAlways(.break) == (rules == ["allow use,break * to everyone"]))
    #expect(try access(rules, uid: 0).mayAlways(.break))
  }

  @Test func theFirstRuleThatIsAboutItDecides() throws {
    let rules = ["allow use jobs/a to everyone", "deny use jobs/* to everyone", "allow use * to everyone"]
    let access = try access(rules)
    #expect(may(access, .use, "jobs/a"))
    #expect(!may(access, .use, "jobs/ab"))
    #expect(!may(access, .use, "jobs/"))
    #expect(may(access, .use, "jobs"))
    // Rules about another right say nothing.
    #expect(may(access, .inspect, "jobs/b"))
    #expect(!may(access, .break, "a"))
  }

  @Test func anExactNameIsNoPrefix() throws {
    let access = try access(["deny inspect ab to everyone"])
    #expect(!may(access, .inspect, "ab"))
    #expect(may(access, .inspect, "abc"))
    #expect(may(access, .inspect, "a"))
  }

  @Test func rulesAreAboutUsersGroupsAndUnits() throws {
    #expect(!may(try access(["deny use * to user:anna"], uid: 1000), .use, "a"))
    #expect(may(try access(["deny use * to user:anna"], uid: 1001), .use, "a"))
    #expect(!may(try access(["deny use * to group:shop"], groups: [7, 2000]), .use, "a"))
    #expect(may(try access(["deny use * to group:shop"], groups: [7]), .use, "a"))
    #expect(!may(try access(["deny use * to unit:cron.service"], unit: .named("cron.service")), .use, "a"))
    #expect(may(try access(["deny use * to unit:cron.service"], unit: .named("xcron.service")), .use, "a"))
    #expect(may(try access(["allow break * to user:anna,group:shop"], groups: [2000]), .break, "a"))
  }

  @Test func unitsAreThemselvesByteForByte() throws {
    let rule = AccessRule(
      verdict: .allow, rights: AccessRights(.break), names: .beginning([]), subjects: [.unit("\u{E9}.service")])
    let policy = AccessPolicy(rules: [rule])
    for (unit, mayBreak) in [("\u{E9}.service", true), ("e\u{301}.service", false)] {
      let peer = AccessPeer(uid: 1000, groups: [], unit: .named(unit))
      #expect(policy.access(of: peer).may(.break, [0x61]) == mayBreak)
    }
    #expect(PeerUnit.named("\u{E9}.service") != .named("e\u{301}.service"))
    #expect(AccessRule.Subject.unit("\u{E9}.service") != .unit("e\u{301}.service"))
  }

  @Test func rulesBindRootAndAdministratorsToo() throws {
    #expect(!may(try access(["deny break a* to everyone"], uid: 0), .break, "ab"))
    #expect(may(try access(["deny break a* to everyone"], uid: 0), .break, "b"))
    #expect(!may(try access(["deny use * to user:0"], uid: 0), .use, "a"))
  }

  @Test func whatIsNotKnownCountsAgainstTheClient() throws {
    let allowed = ["allow use * to unit:shop.service", "deny use * to everyone"]
    for doubt in UnitDoubt.allCases {
      #expect(!may(try access(["deny use * to unit:cron.service"], unit: .unknown(doubt)), .use, "a"))
      #expect(!may(try access(allowed, unit: .unknown(doubt)), .use, "a"))
    }
    #expect(may(try access(allowed, unit: .named("shop.service")), .use, "a"))
    #expect(!may(try access(["deny use * to group:shop"], groups: nil), .use, "a"))
    #expect(!may(try access(["deny use * to user:anna"], uid: nil), .use, "a"))
    #expect(!may(try access(["allow break * to user:anna"], uid: nil), .break, "a"))
  }

  @Test func onlyRulesAboutUnitsNeedThem() throws {
    #expect(!AccessPolicy(rules: [try rule("deny use * to user:anna")]).needsUnits)
    #expect(AccessPolicy(rules: [try rule("deny use * to user:anna,unit:a.service")]).needsUnits)
    #expect(!AccessPolicy().needsUnits)
  }
}

@Suite struct ControlGroupTests {
  @Test(arguments: [
    ("0::/system.slice/cron.service\n", PeerUnit.named("cron.service")),
    ("0::/system.slice/system-getty.slice/getty@tty1.service\n", .named("getty@tty1.service")),
    ("0::/user.slice/user-1000.slice/session-3.scope\n", .named("session-3.scope")),
    // What a user's own manager, or whoever a group was delegated to, makes below it is not a unit of the system.
    (
      "0::/user.slice/user-1000.slice/user@1000.service/app.slice/cron.service\n", .named("user@1000.service")
    ),
    ("0::/system.slice/docker-12.scope/system.slice/cron.service\n", .named("docker-12.scope")),
    ("0::/system.slice/_cgroup.service\n", .named("cgroup.service")),
    // Whoever may make a group below a unit can have a name begin with an accent, which makes one character with the slash.
    ("0::/system.slice/shop.service/\u{301}x.service\n", .named("shop.service")),
    ("0::/system.slice/shop.service/\u{301}\n", .named("shop.service")),
    ("1:name=systemd:/system.slice/\u{E9}.service\n0::/system.slice/e\u{301}.service\n", .unknown(.ambiguous)),
    ("12:pids:/x\n1:name=systemd:/system.slice/a.service\n0::/\n", .named("a.service")),
    ("12:pids:/x\n1:name=systemd:/init.scope\n", .named("init.scope")),
    // A hierarchy that is there and that nobody stands in says nothing.
    ("9:name=systemd:/\n0::/system.slice/a.service\n", .named("a.service")),
    ("9:name=systemd:/system.slice/a.service\n0::/\n", .named("a.service")),
    // On a hybrid host both have it.
    ("1:name=systemd:/system.slice/a.service\n0::/system.slice/a.service\n", .named("a.service")),
    ("1:name=systemd:/system.slice/a.service/x\n0::/system.slice/a.service/y\n", .named("a.service")),
    ("1:name=systemd:/system.slice/a.service\n0::/system.slice/b.service\n", .unknown(.ambiguous)),
    ("1:name=systemd:/docker/12\n0::/system.slice/containerd.service\n", .unknown(.ambiguous)),
    ("1:name=systemd:/system.slice/a.service\n0::/../a.service\n", .unknown(.ambiguous)),
    ("1:name=systemd:/\n0::/\n", .unknown(.noUnit)), ("0::/\n", .unknown(.noUnit)),
    ("0::/lxc/cron.service\n", .unknown(.noUnit)), ("0::/system.slice\n", .unknown(.noUnit)),
    ("0::/.service\n", .unknown(.noUnit)), ("0::/../../cron.service\n", .unknown(.noUnit)),
    ("0::/system.slice/cron.service (deleted)\n", .unknown(.noUnit)),
    ("12:pids:/system.slice/cron.service\n", .unknown(.noUnit)), ("0::\n", .unknown(.noUnit)),
    // What does not end may be cut short, and then the end of the name is not the name's.
    ("0::/system.slice/cron.service", .unknown(.unreadable)), ("", .unknown(.unreadable)),
    ("garbage", .unknown(.unreadable)),
  ])
  func unitIsThatOfTheSystem(_ contents: String, _ unit: PeerUnit) {
    #expect(ControlGroup.unit(in: Array(contents.utf8)) == unit)
  }

  @Test func bytesThatAreNoTextAreNoUnit() {
    #expect(ControlGroup.unit(in: Array("0::/a".utf8) + [0xFF] + Array(".service\n".utf8)) == .unknown(.unreadable))
  }

  @Test(
    arguments: [
      ("0::/user.slice/user-1.slice/user@1.service/app.slice/_cgroup.service\n", "cgroup.service"),
      ("9:name=systemd:/\n0::/system.slice/a.service\n", "a.service"),
      ("0::/system.slice/a.service/sub\n", "a.service"),
      ("0::/system.slice/x.socket\n", "x.socket"), ("0::/\n", nil),
      ("1:name=systemd:/a.service\n0::/b.service\n", nil),
    ] as [(String, String?)])
  func peopleAreShownTheInnermostUnit(_ contents: String, _ unit: String?) {
    #expect(ControlGroup.innermostUnit(in: Array(contents.utf8)) == unit)
  }
}
