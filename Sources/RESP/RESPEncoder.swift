/// Writes commands as Redis expects them: an array of blob strings.
public enum RESPEncoder {
  /// Appends the command that consists of `parts`, the command's name first.
  public static func append(command parts: [[UInt8]], to output: inout [UInt8]) {
    appendArrayHeader(count: parts.count, to: &output)
    for part in parts {
      append(blobString: part, to: &output)
    }
  }

  /// Appends the start of an array; `count` blob strings must follow.
  public static func appendArrayHeader(count: Int, to output: inout [UInt8]) {
    output.append(0x2A)
    append(decimal: count, to: &output)
    output.append(0x0D)
    output.append(0x0A)
  }

  /// Appends one blob string.
  public static func append(blobString bytes: some Collection<UInt8>, to output: inout [UInt8]) {
    output.append(0x24)
    append(decimal: bytes.count, to: &output)
    output.append(0x0D)
    output.append(0x0A)
    output.append(contentsOf: bytes)
    output.append(0x0D)
    output.append(0x0A)
  }

  /// Appends a non-negative number in decimal digits.
  private static func append(decimal number: Int, to output: inout [UInt8]) {
    if number < 10 {
      output.append(0x30 + UInt8(number))
      return
    }
    let start = output.count
    var rest = number
    while rest > 0 {
      output.append(0x30 + UInt8(rest % 10))
      rest /= 10
    }
    output[start...].reverse()
  }
}
