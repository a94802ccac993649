import LockEngine
import LockTypes
import RESP
import Testing

@testable import RedisLeases

/// Another login on the connection that is there.
@Suite struct RedisReloginTests {
  private let old = RedisLogin(username: "old", password: RedisSecret(Array("one".utf8)))
  private let new = RedisLogin(username: "new", password: RedisSecret(Array("two".utf8)))
  private let third = RedisLogin(username: "new", password: RedisSecret(Array("three".utf8)))

  private func read(_ link: inout ScriptedLink, _ login: RedisLogin) {
    link.machine.loginRead(login, now: link.now)
  }

  private func answer(_ link: inout ScriptedLink, _ replies: String...) -> [String] {
    link.asked.removeFirst(replies.count)
    return link.hear(replies.joined()).words
  }

  private static let wrong = "-WRONGPASS invalid username-password pair or user is disabled.\r\n"

  @Test func theSameLoginIsNotSent() {
    var link = ScriptedLink.proven(login: old)
    read(&link, old)
    #expect(link.read() == [])
    // Nobody can be logged out.
    read(&link, RedisLogin())
    #expect(link.read() == [])
  }

  @Test func anotherLoginGoesOutAmidTraffic() {
    var link = ScriptedLink.proven(login: old)
    link.acquire(1, "a", of: 1000)
    read(&link, new)
    #expect(link.machine.isUrgent)
    // What follows waits for the answer: nobody has a part in what the new user may not do.
    link.acquire(2, "b", of: 1000)
    link.renew(3, "c")
    #expect(link.read() == ["acquire a", "AUTH new two"])
    #expect(link.answer().words == ["1 replied"])
    #expect(link.read() == [])
    // A message that comes meanwhile is heard.
    #expect(link.hear(ScriptedLink.message("m")).words == ["message m"])
    #expect(link.answer().words == ["login", "3 sent", "2 sent"])
    #expect(link.read() == ["renew c", "acquire b"])
    #expect(link.answer(2).words == ["3 replied", "2 replied"])
    read(&link, new)
    #expect(link.read() == [])
  }

  @Test func theEpochIsAskedForAllTheSame() {
    var link = ScriptedLink.proven(login: old)
    read(&link, new)
    link.confirmEpoch(7)
    #expect(link.read() == ["AUTH new two", "confirm_epoch "])
  }

  @Test func aRefusedLoginChangesNothing() {
    var link = ScriptedLink.proven(login: old)
    read(&link, new)
    link.acquire(1, "a")
    link.read()
    let told = answer(&link, Self.wrong)
    #expect(
      told == [
        "login refused: Redis refused the password of user 'new': check user and password, and that the user is enabled (ACL LIST)",
        "1 sent",
      ])
    #expect(link.read() == ["acquire a"])
    #expect(link.answer().words == ["1 replied"])
    // It is tried again when it is read again, and Redis may know it by then.
    read(&link, new)
    #expect(link.read() == ["AUTH new two"])
    #expect(link.answer().words == ["login"])
  }

  @Test(arguments: ["ERR unknown command `AUTH`, with args beginning with: `new` `two`", "ERR one two"])
  func noPasswordIsTold(_ error: String) {
    var link = ScriptedLink.proven(login: old)
    read(&link, new)
    link.read()
    let told = answer(&link, "-\(error)\r\n")
    #expect(told.count == 1 && told[0].hasPrefix("login refused: "))
    #expect(!told[0].contains("two"))
  }

  @Test func ofTwoRotationsAtOnceTheLastCounts() {
    var link = ScriptedLink.proven(login: old)
    read(&link, new)
    read(&link, old)
    read(&link, third)
    #expect(link.read() == ["AUTH new two"])
    link.acquire(1, "a")
    #expect(link.answer().words == ["login"])
    #expect(link.read() == ["AUTH new three"])
    #expect(link.answer().words == ["login", "1 sent"])
    #expect(link.read() == ["acquire a"])
  }

  @Test func oneThatIsRefusedIsNotSentAgainByItself() {
    var link = ScriptedLink.proven(login: old)
    read(&link, new)
    read(&link, new)
    link.read()
    #expect(answer(&link, Self.wrong).count == 1)
    #expect(link.read() == [])
  }

  @Test func anOutageEndsIt() throws {
    var link = ScriptedLink.proven(login: old)
    read(&link, new)
    read(&link, third)
    #expect(link.query(5, "GET x") == true)
    link.read()
    #expect(link.end()?.unanswered == [5])
    // The next connection has the login that it is given, and nothing is left of the one before.
    link.login = new
    #expect(link.up().words == ["up"])
    read(&link, new)
    #expect(link.read() == ["PING"])
    link.acquire(1, "a")
    #expect(link.read() == ["acquire a"])
    read(&link, third)
    #expect(link.read() == ["AUTH new three"])
  }

  @Test func nothingIsSentWhereThereIsNoConnection() {
    var link = ScriptedLink()
    read(&link, new)
    link.number = link.machine.start() ?? 0
    read(&link, new)
    link.connect()
    link.machine.drainOutput { _ in }
    read(&link, new)
    #expect(link.read() == [])
  }

  @Test func aServerThatDoesNotAnswerIsFoundDead() {
    var link = ScriptedLink.proven(login: old)
    read(&link, new)
    link.read()
    link.pass(milliseconds: ScriptedLink.timeoutMilliseconds)
    #expect(link.checkLiveness() != nil)
  }

  // MARK: Rights

  @Test func theRightsOfTheNewUserAreTried() {
    var link = ScriptedLink.proven(login: old, hasProbe: true)
    read(&link, new)
    link.acquire(1, "a")
    #expect(link.read() == ["AUTH new two", "load", "probe"])
    #expect(link.answer(2).words == [])
    #expect(link.read() == [])
    #expect(link.answer().words == ["login", "1 sent"])
  }

  private static let lack: String = {
    let error = "ERR ACL failure in script: User new has no permissions to run the 'publish' command"
    return "*2\r\n$7\r\nPUBLISH\r\n$\(error.utf8.count)\r\n\(error)\r\n"
  }()

  @Test func aUserWhoLacksRightsIsToldAndLeft() {
    var link = ScriptedLink.proven(login: old, hasProbe: true)
    read(&link, new)
    link.acquire(1, "a")
    link.read()
    let told = answer(&link, "+OK\r\n", "$1\r\nx\r\n", Self.lack)
    #expect(
      told == [
        "rights missing: the Redis user 'new' may not use PUBLISH: allow it with ACL SETUSER new +publish"
      ])
    // Nothing was sent as that user.
    #expect(link.read() == ["AUTH old one", "load", "probe"])
    #expect(link.answer(3).words == ["1 sent"])
    #expect(link.read() == ["acquire a"])
    // The right may have been granted meanwhile.
    read(&link, new)
    #expect(link.read() == ["AUTH new two", "load", "probe"])
    #expect(link.answer(4).words == ["1 replied", "login"])
  }

  @Test func aUserWhoMayRunNoScriptsIsTold() {
    var link = ScriptedLink.proven(login: old, hasProbe: true)
    read(&link, new)
    link.read()
    let no = "-NOPERM this user has no permissions to run the 'evalsha' command\r\n"
    let told = answer(&link, "+OK\r\n", "-NOPERM this user has no permissions to run the 'script|load' command\r\n", no)
    #expect(told.count == 1 && told[0].contains("rights missing: the Redis user 'new' may not use SCRIPT LOAD"))
    #expect(told[0].contains("+evalsha +script|load +subscribe"))
  }

  @Test func whoseLoginOfBeforeIsTakenAwayStaysTheNewUser() {
    var link = ScriptedLink.proven(login: old, hasProbe: true)
    read(&link, new)
    link.acquire(1, "a")
    link.read()
    _ = answer(&link, "+OK\r\n", "$1\r\nx\r\n", Self.lack)
    link.read()
    #expect(answer(&link, Self.wrong, "$1\r\nx\r\n", "*0\r\n") == ["1 sent"])
    read(&link, new)
    #expect(link.read() == ["acquire a"])
  }

  @Test func aRefusedLoginSaysNothingOfRights() {
    var link = ScriptedLink.proven(login: old, hasProbe: true)
    read(&link, new)
    link.read()
    let told = answer(&link, Self.wrong, "$1\r\nx\r\n", Self.lack)
    #expect(told.count == 1 && told[0].hasPrefix("login refused: "))
    #expect(link.read() == [])
  }
}
