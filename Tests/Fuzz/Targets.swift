/// Every target; a new one is a row here, a function, and a folder in corpus/.
let fuzzTargets: [FuzzTarget] = [
  FuzzTarget(name: "lines", check: checkLines),
  FuzzTarget(name: "client", check: checkClient),
  FuzzTarget(name: "resp", check: checkConnection),
  FuzzTarget(name: "inbox", check: checkInbox),
  FuzzTarget(name: "hosts", check: checkHosts),
  FuzzTarget(name: "cluster", check: checkCluster),
  FuzzTarget(name: "engine", check: checkEngine),
  FuzzTarget(name: "restore", check: checkRestore),
  FuzzTarget(name: "image", check: checkImage),
  FuzzTarget(name: "kept", check: checkKept),
  FuzzTarget(name: "settings", check: checkSettings),
  FuzzTarget(name: "rules", check: checkRulesAndURLs),
]

/// A fault that blind chance would not find, to show that the search is guided. No target of its own.
let planted = FuzzTarget(name: "planted") { input in
  guard input.count >= 4, input[0] == 0x6C, input[1] == 0x6F else { return }
  if input[2] == 0x63 {
    if input[3] == 0x6B { violated("planted") }
  }
}
