/// The specification of the protocol as `rpc.discover` answers with it: protocol/openrpc.json, built into the program.
enum OpenRPCDocument {
  /// The document on one line: what stands between its values for people's sake is left out.
  static var compact: [UInt8] {
    var compact: [UInt8] = []
    var isInString = false
    var isEscaped = false
    for byte in PackageResources.openrpc_json {
      if isInString {
        if isEscaped {
          isEscaped = false
        } else if byte == 0x5C {
          isEscaped = true
        } else if byte == 0x22 {
          isInString = false
        }
      } else if byte == 0x22 {
        isInString = true
      } else if byte == 0x20 || byte == 0x0A || byte == 0x0D || byte == 0x09 {
        continue
      }
      compact.append(byte)
    }
    return compact
  }
}
