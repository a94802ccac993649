import Foundation
import ProcessSupport
import Testing

/// Programs that are run for what they write.
@Suite struct HelperProgramTests {
  private final class Place {
    let path: String

    init() throws {
      var template = Array("/tmp/sidelock-helper-XXXXXX".utf8CString)
      path = try #require(mkdtemp(&template).map { String(cString: $0) })
    }

    deinit { try? FileManager.default.removeItem(atPath: path) }

    func script(_ text: String, mode: Int = 0o755, first: String = "#!/bin/sh\n") throws -> String {
      let file = path + "/helper"
      try (first + text).write(toFile: file, atomically: false, encoding: .utf8)
      try FileManager.default.setAttributes([.posixPermissions: mode], ofItemAtPath: file)
      return file
    }
  }

  private func problem(_ path: String, secondsMax: Int = 10) -> HelperProgram.Failure? {
    guard case .failure(let failure) = HelperProgram.run(path, secondsMax: secondsMax) else { return nil }
    return failure
  }

  @Test func whatItWritesIsTaken() throws {
    let place = try Place()
    let path = try place.script("printf 'secret\\nexpires_in=5\\n'; echo noise >&2")
    #expect(HelperProgram.run(path, secondsMax: 10) == .success(Array("secret\nexpires_in=5\n".utf8)))
  }

  @Test func theStatusIsKnownWhereChildrenAreNotWaitedFor() throws {
    let before = signal(SIGCHLD, SIG_IGN)
    defer { signal(SIGCHLD, before) }
    let place = try Place()
    #expect(problem(try place.script("exit 7"))?.problem == "has ended with exit status 7")
    #expect(problem(try place.script("kill -9 $$"))?.problem == "was ended by signal 9")
    #expect(problem(try place.script("exit 0")) == nil)
  }

  @Test func itHasNoInputNoArgumentsAndNoSettings() throws {
    setenv("SIDELOCK_REDIS", "redis://:hunter2@h", 1)
    setenv("NOTIFY_SOCKET", "/n", 1)
    defer {
      unsetenv("SIDELOCK_REDIS")
      unsetenv("NOTIFY_SOCKET")
    }
    let place = try Place()
    let path = try place.script("cat; echo \"$# [$SIDELOCK_REDIS$NOTIFY_SOCKET] ${PATH:+path}\"")
    #expect(HelperProgram.run(path, secondsMax: 10) == .success(Array("0 [] path\n".utf8)))
  }

  @Test func itHasNoOtherDescriptors() throws {
    let descriptor = open("/dev/null", O_RDONLY)
    defer { close(descriptor) }
    let place = try Place()
    let path = try place.script(
      "[ -e /proc/self/fd/\(descriptor) ] && ls -l /proc/self/fd/\(descriptor) | grep -c /dev/null; true")
    #expect(HelperProgram.run(path, secondsMax: 10) == .success([]))
  }

  @Test func whatFailsIsToldWithItsWords() throws {
    let place = try Place()
    let failure = try #require(problem(try place.script("echo token; echo 'no network' >&2; exit 1")))
    #expect(failure.problem == "has ended with exit status 1")
    #expect(failure.output == Array("token\n".utf8) && failure.words == Array("no network\n".utf8))
  }

  @Test func whatHangsIsKilledWithAllThatItHasStarted() throws {
    let place = try Place()
    let path = try place.script("sleep 1000 & echo $! > \(place.path)/child; wait")
    #expect(problem(path, secondsMax: 1)?.problem == "has not ended within 1 s")
    let child = try String(contentsOfFile: place.path + "/child", encoding: .utf8).trimmingCharacters(in: .newlines)
    // The signal is on its way, and it may be a zombie until somebody reaps it.
    let isOver = {
      let state = try? String(contentsOfFile: "/proc/\(child)/stat", encoding: .utf8)
      return state.map { $0.contains(") Z ") || $0.contains(") X ") } ?? true
    }
    for _ in 0..<3000 where !isOver() { usleep(10_000) }
    #expect(isOver())
  }

  @Test func whatIsLeftBehindIsNotWaitedFor() throws {
    let place = try Place()
    let path = try place.script("sleep 1000 & echo secret")
    #expect(HelperProgram.run(path, secondsMax: 60) == .success(Array("secret\n".utf8)))
  }

  @Test func aFloodIsRefusedAtOnce() throws {
    let place = try Place()
    #expect(problem(try place.script("yes"))?.problem == "has written more than 4096 bytes")
    #expect(problem(try place.script("head -c 4097 /dev/zero"))?.problem == "has written more than 4096 bytes")
    #expect(problem(try place.script("head -c 4096 /dev/zero")) == nil)
    #expect(problem(try place.script("yes >&2"), secondsMax: 1)?.problem == "has not ended within 1 s")
  }

  @Test func whatCannotBeStartedIsTold() throws {
    let place = try Place()
    #expect(
      problem(try place.script("", first: "#!/missing/interpreter\n"))?.problem.contains(
        "interpreter (#!) is not there") == true)
    #expect(problem(try place.script("echo x", first: ""))?.problem.contains("#!/bin/sh") == true)
  }

  // MARK: Who may be run

  @Test func aPathMustLeadToAProgram() throws {
    let place = try Place()
    #expect(HelperProgram.refusal(of: "helper")?.contains("no absolute path") == true)
    #expect(HelperProgram.refusal(of: place.path + "/missing") == "is not there")
    #expect(HelperProgram.refusal(of: place.path + "/helper --now")?.contains("arguments are not taken") == true)
    #expect(HelperProgram.refusal(of: place.path)?.contains("no regular file") == true)
    #expect(HelperProgram.refusal(of: try place.script("", mode: 0o644))?.contains("chmod a+x") == true)
    #expect(HelperProgram.refusal(of: try place.script("")) == nil)
  }

  @Test func whatOthersCanChangeIsNotRun() throws {
    let place = try Place()
    #expect(
      HelperProgram.refusal(of: try place.script("", mode: 0o757))?.contains("can be changed by every user") == true)
    #expect(
      HelperProgram.refusal(of: try place.script("", mode: 0o775))?.contains("can be changed by the group") == true)
    let path = try place.script("")
    chmod(place.path, 0o777)
    #expect(
      HelperProgram.refusal(of: path)?.contains("stands in a directory that can be changed by every user") == true)
    chmod(place.path, 0o1777)
    #expect(HelperProgram.refusal(of: path) == nil)
    chmod(place.path, 0o755)
    if geteuid() == 0 {
      chown(path, 65534, 0)
      #expect(HelperProgram.refusal(of: path)?.contains("can be changed by the user 65534") == true)
    }
    #expect(problem(place.path + "/missing")?.problem == "is not there")
  }
}
