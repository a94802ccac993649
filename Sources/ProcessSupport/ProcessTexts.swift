import CLinux
import SystemStrings

/// What this process was given, byte for byte as ``SystemText`` has it.
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
      // Strings that have a Kelvin sign where others have a K are equal, and would be taken for the variables of that name.
      guard !name.unicodeScalars.contains("\u{212A}") else { continue }
      if variables[name] == nil {
        variables[name] = String(text.unicodeScalars[text.unicodeScalars.index(after: end)...])
      }
    }
    return variables
  }
}
