import Testing

@testable import sidelock

struct ServiceStateTests {
  static func answer(_ state: String, _ sub: String, _ result: String, _ code: String, _ status: String) -> String {
    """
    Result=\(result)
    ExecMainCode=\(code)
    ExecMainStatus=\(status)
    LoadState=loaded
    ActiveState=\(state)
    SubState=\(sub)

    """
  }

  @Test(
    arguments: [
      (answer("activating", "auto-restart", "exit-code", "1", "78"), "activating (exit 78)"),
      (answer("failed", "failed", "signal", "2", "9"), "failed (signal 9)"),
      (answer("activating", "auto-restart", "watchdog", "3", "6"), "activating (signal 6, watchdog)"),
      (answer("active", "running", "success", "0", "0"), "active (running)"),
      (answer("inactive", "dead", "success", "1", "0"), "inactive (dead)"),
      (answer("failed", "failed", "start-limit-hit", "0", "0"), "failed (start-limit-hit)"),
    ])
  func theStateIsSaidInAFewWords(answer: String, words: String) {
    let sentence = "sidelockd.service is \(words): see systemctl status sidelockd"
    let said = ServiceState.words(answer, isSystemSocket: true)
    #expect(said?.hasPrefix(sentence) == true)
    // Wrong settings come with the command that finds them.
    #expect(said?.hasSuffix("sidelockd --config /etc/sidelock/sidelockd.yaml --check") == words.contains("78"))
  }

  @Test func aServiceThatIsNotThereIsNotSpokenOf() {
    let absent = "LoadState=not-found\nActiveState=inactive\nSubState=dead\n"
    #expect(ServiceState.words(absent, isSystemSocket: true) == nil)
    #expect(ServiceState.words("", isSystemSocket: true) == nil)
  }

  @Test func anotherSocketIsAnotherDaemonsUnlessTheServiceIsInTrouble() {
    let fine = Self.answer("active", "running", "success", "0", "0")
    #expect(ServiceState.words(fine, isSystemSocket: false) == nil)
    let failing = Self.answer("activating", "auto-restart", "exit-code", "1", "78")
    #expect(ServiceState.words(failing, isSystemSocket: false)?.contains("exit 78") == true)
  }
}
