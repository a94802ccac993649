import Testing

@testable import RESP

@Suite struct RedisCredentialsTests {
  private func parse(_ output: String) -> Result<RedisCredentials, RedisCredentials.Problem> {
    do throws(RedisCredentials.Problem) { return .success(try RedisCredentials(parsing: bytes(output))) } catch {
      return .failure(error)
    }
  }

  @Test(
    arguments: [
      ("secret", nil, nil), ("secret\n", nil, nil), ("secret\r\n", nil, nil), ("secret\nuser=u\n", "u", nil),
      ("secret\nexpires_in=900\n", nil, 900), ("secret\n\nuser=a:b\r\nexpires_in=1\r\n\n", "a:b", 1),
    ] as [(String, String?, Int64?)])
  func anOutputIsRead(output: String, user: String?, seconds: Int64?) throws {
    let found = try parse(output).get()
    #expect(found.password.bytes == bytes("secret"))
    #expect(found.user == user && found.expiresInSeconds == seconds)
  }

  @Test(arguments: [
    ("", "written nothing"), ("\n", "empty first line"), ("\nsecret", "empty first line"),
    ("s\nexpires_in=", "expires_in"), ("s\nexpires_in=0", "expires_in"), ("s\nexpires_in=-5", "expires_in"),
    ("s\nexpires_in=soon", "expires_in"), ("s\nexpires_in=99999999999999999999", "expires_in"), ("s\nuser=", "user="),
    ("s\nuser=a b", "user="), ("s\nuser=\u{7}", "user="), ("s\nhunter2", "line 2"), ("s\n\nhunter2", "line 3"),
    ("s\nuser=a\nuser=b", "line 3"), ("s\nexpires_in=5\nexpires_in=5", "line 3"),
  ])
  func aBadOutputIsRefusedByNameAndNotRepeated(output: String, words: String) {
    guard case .failure(let problem) = parse(output) else {
      Issue.record("it is taken")
      return
    }
    #expect(problem.words.contains(words) && !problem.words.contains("hunter2"))
  }

  @Test func theUserThatIsNamedNearestCounts() {
    var source = RedisLoginSource()
    source.inURL = RedisLogin(username: "url", password: nil)
    let password = RedisSecret(bytes("p"))
    #expect(source.login(password).username == "url")
    source.user = "setting"
    #expect(source.login(password).username == "setting")
    #expect(source.login(password, of: "named") == RedisLogin(username: "named", password: password))
  }

  @Test func aFileMayEndWithALineEnd() {
    #expect(RedisSecret(line: bytes("a\r\n"))?.bytes == bytes("a"))
    #expect(RedisSecret(line: bytes("a b ")) == RedisSecret(bytes("a b ")))
    #expect(RedisSecret(line: bytes("\n")) == nil && RedisSecret(line: []) == nil)
  }
}
