extension JSONValue {
  /// The value as compact JSON on one line.
  public var serialized: String {
    var output: [UInt8] = []
    write(to: &output)
    return String(decoding: output, as: UTF8.self)
  }

  /// Appends the value as compact JSON on one line.
  public func write(to output: inout [UInt8]) {
    switch self {
    case .null: output.append(contentsOf: "null".utf8)
    case .bool(let value): output.append(contentsOf: (value ? "true" : "false").utf8)
    case .int(let value): output.append(contentsOf: String(value).utf8)
    // JSON knows neither infinity nor NaN.
    case .double(let value): output.append(contentsOf: (value.isFinite ? "\(value)" : "null").utf8)
    case .string(let value): Self.write(string: value, to: &output)
    case .array(let elements):
      output.append(UInt8(ascii: "["))
      for (index, element) in elements.enumerated() {
        if index > 0 { output.append(UInt8(ascii: ",")) }
        element.write(to: &output)
      }
      output.append(UInt8(ascii: "]"))
    case .object(let object):
      output.append(UInt8(ascii: "{"))
      for (index, member) in object.members.enumerated() {
        if index > 0 { output.append(UInt8(ascii: ",")) }
        Self.write(string: member.key, to: &output)
        output.append(UInt8(ascii: ":"))
        member.value.write(to: &output)
      }
      output.append(UInt8(ascii: "}"))
    }
  }

  private static func write(string: String, to output: inout [UInt8]) {
    output.append(UInt8(ascii: "\""))
    // C2 begins the two bytes of U+0080 to U+00BF.
    var follows = false
    for byte in string.utf8 {
      if follows {
        follows = false
        if byte < 0xA0 {
          output.removeLast()
          output.append(contentsOf: "\\u00\(String(byte, radix: 16))".utf8)
          continue
        }
      }
      switch byte {
      case UInt8(ascii: "\""), UInt8(ascii: "\\"):
        output.append(UInt8(ascii: "\\"))
        output.append(byte)
      case 0x0A: output.append(contentsOf: "\\n".utf8)
      case 0x0D: output.append(contentsOf: "\\r".utf8)
      case 0x09: output.append(contentsOf: "\\t".utf8)
      case 0x00..<0x20, 0x7F:
        // DEL is legal as it is, as are U+0080 to U+009F, but a terminal that shows the line would act on it.
        let digits = String(byte, radix: 16)
        output.append(contentsOf: "\\u00\(digits.count == 1 ? "0" : "")\(digits)".utf8)
      default:
        follows = byte == 0xC2
        output.append(byte)
      }
    }
    output.append(UInt8(ascii: "\""))
  }
}
