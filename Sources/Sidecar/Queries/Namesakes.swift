import Logging
import NIOCore
import SystemStrings

/// Notices that another daemon at the same store, which lives, has this host's name. Locks are safe all the same, as a
/// host is known by its instance there; people and programs cannot tell the two apart.
final class Namesakes {
  /// From the connection to the store to the look, in milliseconds. A daemon that this one has replaced has ended by then.
  static let lookMilliseconds: Int64 = 60_000
  /// Daemons that are asked, and that are told of, at most.
  private static let askedMax = 8

  private let loop: any EventLoop
  private let output: TurnOutput
  private let logger: Logger
  private let host: String
  private let inbox: String
  var store: (any LeaseStore)?
  var calls: HostCalls?
  private var isPlanned = false
  /// Those that were told of.
  private(set) var told: Set<ExactText> = []

  init(loop: any EventLoop, output: TurnOutput, logger: Logger, host: String, inbox: String) {
    self.loop = loop
    self.output = output
    self.logger = logger
    self.host = host
    self.inbox = inbox
  }

  /// The connection to the store is up.
  func linkCameUp() {
    guard !isPlanned else { return }
    isPlanned = true
    loop.assumeIsolated().scheduleTask(in: .milliseconds(Self.lookMilliseconds)) { [weak self] in
      self?.isPlanned = false
      self?.look()
    }
  }

  /// That Redis lists a daemon is no sign of life: one that was killed may be listed for a while. So it has to answer.
  private func look() {
    guard let store, let calls, store.isReady else { return }
    store.hosts(of: nil) { answer in
      defer { self.output.scheduleEnd() }
      guard case .answer(let inboxes) = answer else { return }
      let namesakes = inboxes.filter { $0.hasPrefix(self.host + "/") && !ExactText.isSame($0, self.inbox) }
      let asked = namesakes.filter { !self.told.contains(ExactText($0)) }.prefix(Self.askedMax)
      guard !asked.isEmpty else { return }
      calls.queryHosts(asked.map { ($0, .about) }) { outcomes in
        self.output.scheduleEnd()
        for (inbox, outcome) in outcomes where outcome.answer != nil { self.tell(inbox) }
      }
    }
    output.scheduleEnd()
  }

  private func tell(_ inbox: String) {
    guard told.count < Self.askedMax else { return }
    told.insert(ExactText(inbox))
    logger.warning(
      "another daemon at the same Redis has this host's name",
      metadata: [
        "host": "\(host)", "other": "\(inbox)", "help": "give each daemon a name of its own, with the setting host",
      ])
  }
}
