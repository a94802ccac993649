import RESP
import RedisLeases

/// A host of a release that does not exist yet: it appends a field to each value, entry and message that has room for
/// more, as protocol/formats.md allows.
enum LaterRelease {
  /// The field.
  static let field = "later"

  /// The scripts of such a release.
  static let scripts: [RedisScript] = RedisScript.leases(withQuickWays: false).map { script in
    var text = String(decoding: script.source, as: UTF8.self)
    func put(_ new: String, for old: String, in scripts: Set<ScriptName>? = nil) {
      if let scripts, !scripts.contains(script.name) { return }
      precondition(text.contains(old), "\(script.name.rawValue).lua does not have \(old) any more")
      text = text.replacing(old, with: new)
    }
    // Values, and the holders that are added to them.
    put("(more or ':\(field)')", for: "(more or '')")
    put("(holder.more or ':\(field)')", for: "(holder.more or '')")
    put("'1;inuse 0 \(field);'", for: "'1;inuse 0;'")
    // Entries, which this host writes and looks for.
    put("my_mode .. ':\(field)'\n", for: "my_mode\n", in: [.acquire])
    put("ARGV[i] .. ':\(field)'\n", for: "ARGV[i]\n", in: [.places])
    // Messages.
    put("my_mode }, ' ') .. ' \(field);'", for: "my_mode }, ' ') .. ';'", in: [.acquire])
    if text.contains("'1;granted'") {
      put("- 1 }, ' ') .. ' \(field);'", for: "- 1 }, ' ') .. ';'")
    }
    return RedisScript(name: script.name, source: Array(text.utf8))
  }

  /// A command of such a release: what goes to another host has one more field in its header.
  static func changed(_ command: RedisCommand) -> RedisCommand {
    let parts = command.parts
    guard command.script == nil, parts.count == 3, parts[0] == Array("PUBLISH".utf8),
      let end = parts[2].dropFirst(2).firstIndex(of: UInt8(ascii: ";"))
    else { return command }
    return .plain([parts[0], parts[1], parts[2][..<end] + Array(" \(field)".utf8) + parts[2][end...]])
  }
}
