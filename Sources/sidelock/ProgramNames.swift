import ArgumentParser
import Glibc

/// What a shell offers for the command of `sidelock run`: the programs of `PATH`.
enum ProgramNames {
  static let completion = CompletionKind.custom { words, index, prefix in
    // Behind the command come its arguments, of which only itself knows.
    index > 0 && words.prefix(index).last == "--"
      ? offered(prefix: prefix, path: getenv("PATH").map { String(cString: $0) } ?? "") : []
  }

  /// The programs in the directories of `path` whose names begin with `prefix`, each once.
  static func offered(prefix: String, path: String) -> [String] {
    var found: Set<String> = []
    for directory in path.split(separator: ":") {
      guard let entries = opendir(String(directory)) else { continue }
      defer { closedir(entries) }
      while let entry = readdir(entries) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) {
          $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
        guard name.hasPrefix(prefix), LockNames.isPlain(name), access("\(directory)/\(name)", X_OK) == 0 else {
          continue
        }
        found.insert(LockNames.forShell(name, .requesting))
      }
    }
    return found.sorted()
  }
}
