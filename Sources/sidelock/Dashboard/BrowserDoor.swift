import ArgumentParser
import CLinux
import CSupervise
import Glibc

/// A file for this user alone that leads a browser to an address. The address itself would stand in the browser's command
/// line, which every user of the host can read.
struct BrowserDoor {
  private let path: String

  /// Makes the file, and has the user's browser open it. Says why that is not possible.
  init(to url: String) throws {
    let runtime = getenv("XDG_RUNTIME_DIR").map { String(cString: $0) } ?? ""
    let directory = runtime.isEmpty ? "/tmp" : runtime
    var template = Array("\(directory)/sidelock-dashboard-XXXXXX.html".utf8CString)
    // With mode 0600.
    let descriptor = mkstemps(&template, 5)
    guard descriptor >= 0 else { throw Self.failure("cannot make a file in \(directory)") }
    path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    _ = fcntl(descriptor, F_SETFD, FD_CLOEXEC)
    defer { close(descriptor) }
    try Descriptor.write(
      "<!doctype html><meta charset=utf-8><meta name=referrer content=no-referrer>"
        + "<meta http-equiv=refresh content=\"0;url=\(url)\"><a href=\"\(url)\">sidelock</a>\n", to: descriptor)
    try start()
  }

  /// Starts `xdg-open`, and waits for nothing: it may be the browser itself.
  private func start() throws {
    // A group of its own: Ctrl-C ends this command and no browser.
    let flags = Int32(POSIX_SPAWN_SETSIGDEF) | Int32(POSIX_SPAWN_SETPGROUP)
    let process = CleanSpawn.start("xdg-open", ["xdg-open", path], flags: flags) { actions, attributes in
      for output in [STDOUT_FILENO, STDERR_FILENO] {
        posix_spawn_file_actions_addopen(&actions, output, "/dev/null", O_WRONLY, 0)
      }
      // The server's socket among them, which would keep its port, and the page waiting, after this command.
      supervise_close_others(&actions)
      // It is ignored here (orphans_bury_themselves); a browser waits for its children.
      var children = sigset_t()
      sigemptyset(&children)
      sigaddset(&children, SIGCHLD)
      posix_spawnattr_setsigdefault(&attributes, &children)
    }
    guard process != nil else {
      remove()
      throw Self.failure("there is no xdg-open; open the address above by hand")
    }
  }

  /// Removes the file.
  func remove() {
    unlink(path)
  }

  private static func failure(_ words: String) -> ExitCode {
    Descriptor.say("cannot open a browser: \(words)")
    return ExitCode(ExitStatus.software)
  }
}
