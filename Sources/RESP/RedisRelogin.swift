/// The conversation by which a living connection gets another login: AUTH, and behind it the probe, because another user
/// may have fewer rights. Everything is sent at once.
///
/// A server that refuses AUTH goes on with the login of before, and so do the subscription and its pushes in any case.
public struct RedisRelogin: Equatable, Sendable {
  /// What is sent, in this order.
  public enum Step: CaseIterable, Sendable {
    /// Logs in.
    case authenticate
    /// Loads the probe, which somebody may have taken away.
    case loadProbe
    /// Tries the rights.
    case probe
  }

  /// What it has led to.
  public enum Outcome: Equatable, Sendable {
    /// The connection has the new login. `missingRules`: the rights that it lacks and can do without.
    case done(missingRules: String?)
    /// The connection has the login of before.
    case refused(RedisHandshakeFailure)
    /// The connection has the new login, whose user lacks rights.
    case lacksRights(RedisHandshakeFailure)
  }

  /// What is logged in with.
  public let login: RedisLogin
  /// Whether it leads back to the login of before.
  public let isReturn: Bool
  private let configuration: RedisConnectionConfiguration
  private var refusal: RedisHandshakeFailure?
  private var lack: RedisHandshakeFailure?
  private var missingRules: String?

  /// Logs in on a connection of that configuration.
  public init(to login: RedisLogin, configuration: RedisConnectionConfiguration, isReturn: Bool = false) {
    self.login = login
    self.isReturn = isReturn
    self.configuration = configuration
  }

  /// What is sent; nil where there is no probe.
  public func command(of step: Step) -> RedisCommand? {
    let word = { (text: String) in Array(text.utf8) }
    switch step {
    case .authenticate:
      return .plain([word("AUTH"), word(login.username ?? "default"), login.password?.bytes ?? []])
    case .loadProbe: return configuration.probe.map { .plain([word("SCRIPT"), word("LOAD"), $0.script]) }
    case .probe: return configuration.probe.map { .plain($0.command) }
    }
  }

  /// Takes the reply to a step; gives what came of all when it is the last.
  public mutating func replied(_ reply: RESPValue, to step: Step) -> Outcome? {
    switch step {
    case .authenticate:
      if let error = reply.error {
        refusal = failure(of: .hello, error)
      } else if !reply.isOK {
        refusal = RedisHandshakeFailure(
          reason: .refused, message: "the server's reply to AUTH is not what that command replies", retryMayHelp: true)
      }
      guard configuration.probe == nil else { return nil }
    case .loadProbe:
      if let error = reply.error, RedisRights.refusal(in: error) != .none { lack = failure(of: .loadProbe, error) }
      return nil
    case .probe: probed(reply)
    }
    if let refusal { return .refused(refusal) }
    return lack.map { .lacksRights($0) } ?? .done(missingRules: missingRules)
  }

  private mutating func probed(_ reply: RESPValue) {
    guard let probe = configuration.probe, lack == nil else { return }
    var findings = ProbeFindings(reply, of: probe.rights)
    if let error = reply.error {
      switch RedisRights.refusal(in: error) {
      // A state of the server says nothing about rights.
      case .none: return
      case .key: findings.wasUntried()
      case .command, .channel, .unknown:
        lack = failure(of: .probe, error)
        return
      }
    }
    if !findings.isEnough { lack = RedisHandshakeFailure(findings, naming: names) }
    if !findings.extras.isEmpty { missingRules = "ACL SETUSER \(names.user) \(findings.rules)" }
  }

  private func failure(of step: RedisHandshake.Step, _ error: [UInt8]) -> RedisHandshakeFailure {
    RedisHandshakeFailure(
      step: step, error: error,
      words: RedisErrorReply.words(of: error, without: [login.password, configuration.password]), hasPassword: true,
      database: configuration.database, naming: names,
      findings: configuration.probe.map { ProbeFindings(.null, of: $0.rights) })
  }

  private var names: RedisHandshakeFailure.Names {
    RedisHandshakeFailure.Names(
      user: RedisErrorReply.text(of: Array((login.username ?? "default").utf8)),
      inbox: RedisErrorReply.text(of: configuration.inbox))
  }
}
