import CLinux
import SystemStrings

/// The arguments and environment of this process, byte for byte as ``SystemText`` has them.
package enum ProcessTexts {
  /// The arguments behind the name of the program.
  package static var arguments: [String] {
    (1..<max(1, Int(CommandLine.argc))).compactMap { index in
      CommandLine.unsafeArgv[index].map { SystemText.text(cString: $0) }
    }
  }

  /// The environment; of a variable that is there twice the first one, as getenv(3) does.
  package static var environment: [String: String] {
    var variables: [String: String] = [:]
    var entry = process_environment()
    while let start = entry?.pointee {
      let text = SystemText.text(cString: start)
      entry = entry.map { $0 + 1 }
      guard let end = text.unicodeScalars.firstIndex(of: "=") else { continue }
      let name = String(text.unicodeScalars[..<end])
      // A string with a Kelvin sign equals one with a K, and would be taken for the variable of that name.
      guard !name.unicodeScalars.contains("\u{212A}") else { continue }
      if variables[name] == nil {
        variables[name] = String(text.unicodeScalars[text.unicodeScalars.index(after: end)...])
      }
    }
    return variables
  }
}
