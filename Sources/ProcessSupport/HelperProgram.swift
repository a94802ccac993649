import CLinux
import Glibc
import SystemStrings

/// A program that the daemon runs for what it writes: without arguments, input or shell.
public enum HelperProgram {
  /// The most bytes of its output, and of its errors, that are taken.
  public static let outputBytesMax = 4096
  private static let wordsBytesMax = 512

  /// Why it gave nothing, and what it has written until then.
  public struct Failure: Error, Equatable {
    /// What happened, as the end of a sentence about the program.
    public var problem: String
    /// What it has written to its output, which may be secret.
    public var output: [UInt8]
    /// What it has written to standard error.
    public var words: [UInt8]
  }

  /// Why a program is not run, as the end of a sentence about it; nil: it may be. Whoever can write to it, or replace it, is as
  /// mighty as the daemon.
  @Sendable public static func refusal(of path: String) -> String? {
    guard path.utf8.first == UInt8(ascii: "/") else {
      return "is no absolute path: write it with the directories from / on"
    }
    var status = stat()
    guard SystemText.withCString(path, { stat($0, &status) }) == 0 else {
      let code = errno
      guard code == ENOENT else { return "cannot be looked at: \(String(cString: strerror(code)))" }
      return path.utf8.contains(UInt8(ascii: " "))
        ? "is not there, and arguments are not taken: write a script that has them, and name it alone" : "is not there"
    }
    guard status.st_mode & S_IFMT == S_IFREG else { return "is no regular file: name a program or a script" }
    if let stranger = stranger(status) {
      return "can be changed by \(stranger): give it to root, and take that away with chmod go-w"
    }
    guard SystemText.withCString(path, { access($0, X_OK) }) == 0 else {
      return "cannot be executed by the daemon's user: chmod a+x allows it"
    }
    let directory = path.utf8.lastIndex(of: UInt8(ascii: "/")).map { String(path[..<$0]) } ?? ""
    guard SystemText.withCString(directory.isEmpty ? "/" : directory, { stat($0, &status) }) == 0 else { return nil }
    // In a sticky directory only owners replace their files.
    guard status.st_mode & S_ISVTX == 0, let stranger = stranger(status) else { return nil }
    return "stands in a directory that can be changed by \(stranger): move it to one that only root can write to"
  }

  /// Who can change what has that status, besides root and this process' user; nil: nobody.
  private static func stranger(_ status: stat) -> String? {
    if status.st_uid != 0, status.st_uid != geteuid() { return "the user \(status.st_uid)" }
    if status.st_mode & S_IWOTH != 0 { return "every user" }
    return status.st_mode & S_IWGRP != 0 ? "the group \(status.st_gid)" : nil
  }

  /// Runs a program and gives its output. Blocks for up to `secondsMax`.
  public static func run(_ path: String, secondsMax: Int) -> Result<[UInt8], Failure> {
    if let refusal = refusal(of: path) { return .failure(Failure(problem: refusal, output: [], words: [])) }
    var output = [UInt8](repeating: 0, count: outputBytesMax)
    var words = [UInt8](repeating: 0, count: wordsBytesMax)
    var end = program_end()
    let environment = ProcessTexts.environment.filter(isForHelper).map { "\($0.key)=\($0.value)" }
    withPointers(environment) { environment in
      SystemText.withCString(path) {
        program_run(
          $0, environment, Int64(secondsMax) * 1000, &output, output.count, &words, words.count, &end)
      }
    }
    output.removeLast(output.count - end.output_count)
    words.removeLast(words.count - end.words_count)
    let problem: String
    switch end.kind {
    case PROGRAM_HAS_ENDED where end.status == 0: return .success(output)
    case PROGRAM_HAS_ENDED where end.status > 128: problem = "was ended by signal \(end.status - 128)"
    case PROGRAM_HAS_ENDED: problem = "has ended with exit status \(end.status)"
    case PROGRAM_WAS_SLOW: problem = "has not ended within \(secondsMax) s"
    case PROGRAM_WROTE_TOO_MUCH: problem = "has written more than \(outputBytesMax) bytes"
    case _ where end.status == ENOEXEC: problem = "is no program: a script begins with a line like #!/bin/sh"
    case _ where end.status == ENOENT:
      problem = "cannot be started: what its first line names as its interpreter (#!) is not there"
    case _: problem = "cannot be started: \(String(cString: strerror(end.status)))"
    }
    return .failure(Failure(problem: problem, output: output, words: words))
  }

  /// What the service manager says to the daemon, and settings, which may hold a password, are not for it.
  private static func isForHelper(_ variable: (key: String, value: String)) -> Bool {
    let others = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"]
    return !variable.key.hasPrefix("SIDELOCK") && !others.contains(variable.key)
  }

  /// Calls `body` with pointers to texts, and a null pointer behind them.
  private static func withPointers(_ texts: [String], _ body: ([UnsafeMutablePointer<CChar>?]) -> Void) {
    let pointers = texts.map { text in SystemText.withCString(text) { strdup($0) } }
    body(pointers + [nil])
    for pointer in pointers { free(pointer) }
  }
}
