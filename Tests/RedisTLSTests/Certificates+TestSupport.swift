import Foundation

/// Certificates and keys that the `openssl` command makes, in a directory of their own.
final class Certificates {
  let directory: String

  init() throws {
    directory = FileManager.default.temporaryDirectory.appendingPathComponent("sidelock-tls-\(UUID().uuidString)").path
    try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
  }

  deinit { try? FileManager.default.removeItem(atPath: directory) }

  func path(_ name: String) -> String { "\(directory)/\(name)" }

  func bytes(_ name: String) throws -> [UInt8] { Array(try Data(contentsOf: URL(fileURLWithPath: path(name)))) }

  func write(_ bytes: [UInt8], to name: String) throws -> String {
    try Data(bytes).write(to: URL(fileURLWithPath: path(name)))
    return path(name)
  }

  /// A certificate that is signed by itself, `NAME.pem`, and its key, `NAME.key`, for so many days. Those of an authority may
  /// sign others.
  func make(_ name: String, names: String? = nil, days: Int = 30, by authority: String? = nil) throws {
    var arguments = [
      "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout",
      path("\(name).key"), "-out", path("\(name).pem"), "-subj", "/O=sidelock/CN=\(name)", "-days", String(days),
    ]
    if let names { arguments += ["-addext", "subjectAltName=\(names)"] }
    if let authority { arguments += ["-CA", path("\(authority).pem"), "-CAkey", path("\(authority).key")] }
    try openssl(arguments)
  }

  func openssl(_ arguments: [String]) throws {
    let process = Process()
    process.executableURL = URL(fileURLWithPath: "/usr/bin/openssl")
    process.arguments = arguments
    process.standardError = FileHandle.nullDevice
    try process.run()
    process.waitUntilExit()
    guard process.terminationStatus == 0 else { throw Failure(arguments: arguments) }
  }

  struct Failure: Error {
    var arguments: [String]
  }
}
