import CLibYAML

/// A configuration file as a flat list: one mapping of names to plain values, or to lists of them where that means
/// something, and nothing nested deeper.
///
/// libyaml does the parsing. Nested values, other lists, anchors, tags, duplicate keys and further documents are
/// refused: none of them means anything here, and a setting that is silently ignored is worse than an error.
struct SettingsFile: Equatable {
  struct Entry: Equatable {
    var key: String
    /// Nil for a key without a value, and for one with a list.
    var value: String?
    /// The list, for a key that may have one.
    var items: [Item]?
    /// Counted from 1.
    var line: Int
  }

  /// A value of a list.
  struct Item: Equatable {
    var value: String
    /// Counted from 1.
    var line: Int
  }

  struct Problem: Equatable {
    /// The key that it is about, if it is about one.
    var key: String?
    var line: Int
    var message: String
  }

  var entries: [Entry] = []
  var problems: [Problem] = []

  /// The largest file that is read, in bytes.
  static let bytesMax = 256 * 1024

  /// - Parameter listKeys: the keys that may have a list of plain values.
  init(parsing bytes: [UInt8], listKeys: Set<String> = []) {
    let parser = UnsafeMutablePointer<yaml_parser_t>.allocate(capacity: 1)
    defer { parser.deallocate() }
    guard yaml_parser_initialize(parser) == 1 else {
      problems.append(Problem(line: 1, message: "out of memory"))
      return
    }
    defer { yaml_parser_delete(parser) }
    bytes.withUnsafeBufferPointer { buffer in
      yaml_parser_set_input_string(parser, buffer.baseAddress, buffer.count)
      // libyaml would go by the first bytes, which may be no text at all.
      yaml_parser_set_encoding(parser, YAML_UTF8_ENCODING)
      var reader = EventReader(listKeys: listKeys)
      while !reader.finished {
        var event = yaml_event_t()
        guard yaml_parser_parse(parser, &event) == 1 else {
          reader.problems.append(Self.syntaxProblem(parser.pointee, bytes: bytes))
          break
        }
        reader.take(event)
        yaml_event_delete(&event)
      }
      entries = reader.entries
      problems = reader.problems
    }
  }

  private static func syntaxProblem(_ parser: yaml_parser_t, bytes: [UInt8]) -> Problem {
    let what = parser.problem.map { String(cString: $0) } ?? "not YAML"
    if parser.error == YAML_READER_ERROR {
      let line = bytes.prefix(parser.problem_offset).count { $0 == UInt8(ascii: "\n") } + 1
      let kind = String(validating: bytes, as: UTF8.self) == nil ? "UTF-8" : "YAML"
      return Problem(line: line, message: "not \(kind): \(what)")
    }
    return Problem(line: Int(parser.problem_mark.line) + 1, message: "not YAML: \(what)")
  }
}

/// Takes libyaml's events one by one and keeps what a flat mapping may hold.
private struct EventReader {
  private static let shapeMessage = "write settings as \"name: value\", one a line"

  let listKeys: Set<String>
  var entries: [SettingsFile.Entry] = []
  var problems: [SettingsFile.Problem] = []
  var finished = false

  /// The key that waits for its value.
  private var pendingKey: (name: String, line: Int)?
  /// How deep inside a refused value the reader is.
  private var skippedDepth = 0
  /// Whether the value just skipped was in the place of a key; its value is then skipped too.
  private var skippedKey = false
  private var insideMapping = false
  private var documents = 0
  private var lineOfKey: [String: Int] = [:]
  /// The list that the reader is inside of.
  private var items: [SettingsFile.Item]?

  init(listKeys: Set<String>) {
    self.listKeys = listKeys
  }

  mutating func take(_ event: yaml_event_t) {
    let line = Int(event.start_mark.line) + 1
    switch event.type {
    case YAML_STREAM_END_EVENT:
      finished = true
    case YAML_DOCUMENT_START_EVENT:
      documents += 1
      if documents == 2 { report(line, "only one document is allowed") }
      if documents > 1 { finished = true }
    case YAML_MAPPING_START_EVENT:
      if !insideMapping && skippedDepth == 0 {
        insideMapping = true
      } else {
        startSkipping(line)
      }
    case YAML_SEQUENCE_START_EVENT:
      let start = event.data.sequence_start
      if let pendingKey, listKeys.contains(pendingKey.name), items == nil, skippedDepth == 0, start.anchor == nil,
        start.tag == nil
      {
        items = []
      } else {
        startSkipping(line)
      }
    case YAML_SEQUENCE_END_EVENT where skippedDepth == 0 && items != nil:
      endList()
    case YAML_MAPPING_END_EVENT, YAML_SEQUENCE_END_EVENT:
      if skippedDepth > 0 { skippedDepth -= 1 } else { insideMapping = false }
    case YAML_ALIAS_EVENT:
      if skippedDepth == 0 { refuse(line, "anchors, aliases and tags are not allowed") }
    case YAML_SCALAR_EVENT:
      takeScalar(event, line)
    default:
      break
    }
  }

  private mutating func takeScalar(_ event: yaml_event_t, _ line: Int) {
    guard skippedDepth == 0 else { return }
    let scalar = event.data.scalar
    let text = String(decoding: UnsafeBufferPointer(start: scalar.value, count: scalar.length), as: UTF8.self)
    let isPlain = scalar.style == YAML_PLAIN_SCALAR_STYLE
    guard insideMapping else {
      // An empty file with a document mark is a plain empty scalar.
      if !(isPlain && text.isEmpty) { report(line, Self.shapeMessage) }
      return
    }
    if skippedKey {
      skippedKey = false
      return
    }
    if scalar.anchor != nil || scalar.tag != nil {
      refuse(line, "anchors, aliases and tags are not allowed")
      return
    }
    if items != nil {
      items?.append(.init(value: text, line: line))
      return
    }
    guard let key = pendingKey else {
      pendingKey = (text, line)
      if let first = lineOfKey[text] {
        problems.append(.init(key: text, line: line, message: "given twice, first in line \(first)"))
      } else {
        lineOfKey[text] = line
      }
      return
    }
    pendingKey = nil
    guard lineOfKey[key.name] == key.line else { return }
    let isNull = isPlain && ["", "~", "null", "Null", "NULL"].contains(text)
    entries.append(.init(key: key.name, value: isNull ? nil : text, line: key.line))
  }

  private mutating func endList() {
    if let key = pendingKey, lineOfKey[key.name] == key.line {
      entries.append(.init(key: key.name, items: items, line: key.line))
    }
    pendingKey = nil
    items = nil
  }

  private mutating func startSkipping(_ line: Int) {
    if skippedDepth == 0 {
      if items != nil {
        refuse(line, "a plain value is needed in a list; put what has a colon or a brace into quotes")
      } else if insideMapping {
        refuse(line, "a plain value is needed, not a list or a mapping")
      } else {
        report(line, Self.shapeMessage)
      }
    }
    skippedDepth += 1
  }

  /// Reports something in the place of a key or of a value, and forgets both.
  private mutating func refuse(_ line: Int, _ message: String) {
    if skippedKey {
      skippedKey = false
      return
    }
    problems.append(.init(key: pendingKey?.name, line: line, message: message))
    // What is wrong in a list ends with its own value.
    if items != nil { return }
    if pendingKey == nil && insideMapping { skippedKey = true }
    pendingKey = nil
  }

  private mutating func report(_ line: Int, _ message: String) {
    problems.append(.init(line: line, message: message))
  }
}
