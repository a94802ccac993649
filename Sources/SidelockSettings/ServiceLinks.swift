/// The variables by which Kubernetes and Docker tell a container of the services beside it. Those of a service called
/// `sidelock` or `sidelock-redis` begin as the daemon's own do, and nobody in the container can keep them away.
///
/// What is meant for the daemon must not be taken for one of them: a variable counts only if its name and its value are
/// just what a service link has.
enum ServiceLinks {
  /// The variables among these that are service links.
  static func names(in environment: [String: String]) -> Set<String> {
    let named = environment.filter { $0.key.hasPrefix(serviceName) && isLink($0.key, $0.value) }.map(\.key)
    let services = Set(named.compactMap(service))
    return Set(named).union(environment.keys.filter { isPassedOn($0, services) })
  }

  /// The service that a link is to, as the names of its variables begin.
  private static func service(ofLink name: String) -> String? {
    let words = name.split(separator: "_", omittingEmptySubsequences: false)
    let ends = words.indices.dropFirst().filter { ["NAME", "PORT", "SERVICE"].contains(words[$0]) }
    return ends.first.map { words[..<$0].joined(separator: "_") }
  }

  /// Whether Docker passed a variable on from the other container's environment: NAME_ENV_VARIABLE, with any value. No
  /// setting has ENV in its name. SIDELOCK_ENV_… could be a setting with a wrong prefix, so it counts only if another
  /// variable tells of a service called `sidelock`.
  private static func isPassedOn(_ name: String, _ services: Set<String>) -> Bool {
    let words = name.split(separator: "_", omittingEmptySubsequences: false)
    guard words.first == Substring(serviceName), let index = words.dropFirst().firstIndex(of: "ENV"),
      !words[..<index].contains(""), words[(index + 1)...].contains(where: { !$0.isEmpty })
    else { return false }
    return index > 1 || services.contains(serviceName)
  }

  /// What the names of all begin with: that of a service.
  private static let serviceName = "SIDELOCK"
  private static let protocols = ["TCP", "UDP", "SCTP"]

  private static func isLink(_ name: String, _ value: String) -> Bool {
    let words = name.split(separator: "_", omittingEmptySubsequences: false)
    guard words.first == Substring(serviceName), !words.contains("") else { return false }
    for index in words.indices.dropFirst() where isEnding(words[index...], value) { return true }
    return false
  }

  /// Whether a name that ends so is that of a link with this value.
  private static func isEnding(_ words: ArraySlice<Substring>, _ value: String) -> Bool {
    let words = Array(words)
    switch words[0] {
    // SERVICE_HOST, SERVICE_PORT, and SERVICE_PORT_ with the name of a port.
    case "SERVICE" where words.count >= 2 && words[1] == "HOST":
      return words.count == 2 && !value.isEmpty && !value.contains("/")
    case "SERVICE" where words.count >= 2 && words[1] == "PORT": return isNumber(value)
    // PORT, PORT_6379_TCP with an address; PORT_6379_TCP_ and what of it is told.
    case "PORT" where words.count == 1: return isAddress(value)
    case "PORT" where words.count >= 3 && isNumber(words[1]) && protocols.contains(String(words[2])):
      if words.count == 3 { return isAddress(value) }
      return ["ADDR", "PORT", "PROTO", "START", "END"].contains(String(words[3])) || isNumber(words[3])
    // Docker's name of a link: /this-container/that-one.
    case "NAME": return words.count == 1 && value.hasPrefix("/") && value.split(separator: "/").count == 2
    case _: return false
    }
  }

  /// Whether a value is an address as links have it. No setting but `redis` has values of that kind.
  static func isAddress(_ value: some StringProtocol) -> Bool {
    protocols.contains { value.hasPrefix($0.lowercased() + "://") }
  }

  private static func isNumber(_ value: some StringProtocol) -> Bool {
    !value.isEmpty && value.utf8.allSatisfy { (0x30...0x39).contains($0) }
  }
}
