/// In which order the addresses of a server's name are tried.
///
/// The last good one is first. One that has failed goes behind those that have not, and behind those that failed before
/// it, so that no address is tried for ever while another is not. A round tries each once; between rounds is a pause.
public struct AddressRotation: Sendable {
  private struct Failure {
    /// Failures are counted over all addresses.
    var number: UInt64
    /// A server answered there that is of no use: a replica, or another program.
    var wasAnswered: Bool
    var reason: String
  }

  private var failures: [String: Failure] = [:]
  private var preferred: String?
  private var lastFailure: UInt64 = 0
  /// All addresses of the name, as they were found last, and those that have failed in this round.
  private var known: [String] = []
  private var triedInRound: Set<String> = []

  /// No address is known.
  public init() {}

  /// The addresses to try in this round, of those that the name has now, the best first. Empty only when the name has
  /// none.
  public mutating func candidates(among addresses: [String]) -> [String] {
    var seen: Set<String> = []
    known = addresses.filter { seen.insert($0).inserted }
    failures = failures.filter { seen.contains($0.key) }
    if isRoundOver { triedInRound = [] }
    // The order of the resolver decides where nothing is known.
    return known.filter { !triedInRound.contains($0) }.enumerated().sorted { a, b in
      (rank(a.element), UInt64(a.offset)) < (rank(b.element), UInt64(b.offset))
    }.map(\.element)
  }

  private func rank(_ address: String) -> UInt64 {
    address == preferred ? 0 : 1 + (failures[address]?.number ?? 0)
  }

  /// Whether `address` may be tried beside another one that has not answered yet. A near replica would win against a far
  /// primary each time; but what it was before the last connection says nothing, it may have been promoted since.
  public func mayRace(_ address: String) -> Bool { failures[address]?.wasAnswered != true }

  /// `address` is of no use now. `answered`: somebody is there.
  public mutating func failed(_ address: String, answered: Bool, reason: String) {
    lastFailure += 1
    failures[address] = Failure(number: lastFailure, wasAnswered: answered, reason: reason)
    triedInRound.insert(address)
    if preferred == address { preferred = nil }
  }

  /// The server at `address` is the one.
  public mutating func succeeded(_ address: String) {
    failures[address] = nil
    for other in failures.keys { failures[other]?.wasAnswered = false }
    preferred = address
    triedInRound = []
  }

  /// Whether the name has no more than one address.
  public var isAlone: Bool { known.count < 2 }

  /// Whether each address has been tried since the last pause.
  public var isRoundOver: Bool { known.allSatisfy(triedInRound.contains) }

  /// Why the addresses that failed in this round did, in a stable order.
  public var reasons: [String] { triedInRound.sorted().compactMap { failures[$0]?.reason } }
}
