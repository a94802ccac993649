import ArgumentParser
import SidelockClient
import SystemStrings

/// What a shell offers for the name of a lock: the names that the daemon lists.
enum LockNames {
  static let completion = CompletionKind.custom { words, _, prefix in offered(prefix: prefix, words: words) }

  /// How many names are offered at most, and how long the daemon may take for them, in milliseconds: somebody waits at
  /// the prompt.
  static let countMax = 200
  static let millisecondsMax: Int64 = 1000

  /// The names that begin with `prefix`, of the daemon that the command line `words` names; none when it does not answer.
  static func offered(prefix: String, words: [String]) -> [String] {
    guard let prefix = SystemText.utf8(prefix) else { return [] }
    do {
      let path = SocketPath.find(explicit: socket(in: words))
      // All pages together: there may be very many names that cannot be offered.
      let daemon = try TimedConnection(socket: path, milliseconds: millisecondsMax)
      var query = ListQuery(prefix: prefix, allHosts: false)
      var names: [String] = []
      repeat {
        guard let reply = try? daemon.call("list", query.params) else { break }
        let page = query.received(reply)
        names += page.map(\.name).filter(isPlain)
      } while query.hasMore && names.count < countMax
      return names.prefix(countMax).map { forShell($0, .requesting) }
    } catch {
      return []
    }
  }

  /// What a command line that is not complete gives as `--socket`; nil where it has none.
  static func socket(in words: [String]) -> String? {
    let options = words.prefix { $0 != "--" }
    if let index = options.lastIndex(of: "--socket"), index + 1 < options.endIndex { return options[index + 1] }
    return options.last { $0.hasPrefix("--socket=") }.map { String($0.dropFirst("--socket=".count)) }
  }

  /// Whether a name can be offered as it stands. Bash expands what it is offered, commands included, and anybody who may
  /// connect chooses names.
  static func isPlain(_ name: String) -> Bool {
    !name.isEmpty && !name.hasPrefix("-")
      && name.utf8.allSatisfy { byte in
        switch byte {
        case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
          UInt8(ascii: "0")...UInt8(ascii: "9"):
          true
        default: "-_./:@+,=%".utf8.contains(byte)
        }
      }
  }

  /// In zsh's list a colon ends a name, and what follows describes it.
  static func forShell(_ name: String, _ shell: CompletionShell?) -> String {
    guard shell == .zsh else { return name }
    return name.split(separator: ":", omittingEmptySubsequences: false).joined(separator: "\\:")
  }
}
