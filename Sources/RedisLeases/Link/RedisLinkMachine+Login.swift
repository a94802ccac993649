public import LockTypes
public import RESP

// Another login for the connection that is there.

extension RedisLinkMachine {
  /// There is this login now: if the connection has another one, it is changed. What came of it is told by
  /// ``Event/login(_:)``; of several that follow each other quickly only the last counts. The next connection has the login that
  /// it is given.
  public mutating func loginRead(_ login: RedisLogin, now: @autoclosure () -> BootInstant) {
    // Nobody can be logged out.
    guard isReady, login.password != nil else { return }
    guard relogin == nil else {
      nextLogin = login
      return
    }
    if login != configuration.login { begin(RedisRelogin(to: login, configuration: configuration), now: now()) }
  }

  /// What is asked when a command was refused for its user's rights, to find out which are missing.
  public func rightsQuestion(after error: [UInt8]) -> RedisCommand? {
    RedisErrorReply.isAboutRights(error)
      ? RedisRelogin(to: configuration.login, configuration: configuration).command(of: .probe) : nil
  }

  /// What its answer says, with the command that helps; nil: nothing is missing.
  public func missingRights(by answer: RESPValue) -> String? {
    var tried = RedisRelogin(to: configuration.login, configuration: configuration)
    guard case .lacksRights(let failure)? = tried.replied(answer, to: .probe) else { return nil }
    return failure.message
  }

  private mutating func begin(_ relogin: RedisRelogin, now: @autoclosure () -> BootInstant) {
    self.relogin = relogin
    isUrgent = true
    for step in RedisRelogin.Step.allCases where relogin.command(of: step) != nil {
      send(.relogin(step), of: nil, now: now())
    }
  }

  /// A step is answered. If the new user lacks rights, the connection gets its old login back, under which everybody keeps
  /// what he has.
  mutating func reloginReplied(
    _ reply: RESPValue, to step: RedisRelogin.Step, now: @autoclosure () -> BootInstant
  ) -> Event? {
    guard let outcome = relogin?.replied(reply, to: step), let ended = relogin.take() else { return nil }
    let before = configuration.login
    switch outcome {
    case .done: configuration.login = ended.login
    case .refused: break
    case .lacksRights:
      configuration.login = ended.login
      if !ended.isReturn, before.password != nil {
        begin(RedisRelogin(to: before, configuration: configuration, isReturn: true), now: now())
      }
    }
    if let next = nextLogin.take(), next != ended.login { loginRead(next, now: now()) }
    return ended.isReturn ? nil : .login(outcome)
  }
}
