/// SHA-1, by which Redis names scripts: with the digest known beforehand a script is loaded and run in one round trip.
enum SHA1 {
  /// The digest of `message` in 40 hexadecimal digits.
  static func hexDigits(of message: [UInt8]) -> [UInt8] {
    var padded = message
    padded.append(0x80)
    padded.append(contentsOf: repeatElement(0, count: (120 - padded.count % 64) % 64))
    for shift in stride(from: 56, through: 0, by: -8) {
      padded.append(UInt8(truncatingIfNeeded: (UInt64(message.count) &* 8) &>> UInt64(shift)))
    }
    var state: (UInt32, UInt32, UInt32, UInt32, UInt32) =
      (0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0)
    for start in stride(from: 0, to: padded.count, by: 64) { add(padded[start..<(start + 64)], to: &state) }
    let hex = Array("0123456789abcdef".utf8)
    return [state.0, state.1, state.2, state.3, state.4].flatMap { word in
      stride(from: 28, through: 0, by: -4).map { hex[Int(word &>> UInt32($0)) & 0xF] }
    }
  }

  private static func add(_ block: ArraySlice<UInt8>, to state: inout (UInt32, UInt32, UInt32, UInt32, UInt32)) {
    var schedule: [UInt32] = []
    schedule.reserveCapacity(80)
    for start in stride(from: block.startIndex, to: block.endIndex, by: 4) {
      schedule.append(block[start..<(start + 4)].reduce(0) { $0 &<< 8 | UInt32($1) })
    }
    for round in 16..<80 {
      schedule.append(
        rotated(schedule[round - 3] ^ schedule[round - 8] ^ schedule[round - 14] ^ schedule[round - 16], by: 1))
    }
    var (a, b, c, d, e) = state
    for round in 0..<80 {
      let mixed: UInt32
      switch round {
      case 0..<20: mixed = (b & c | ~b & d) &+ 0x5a82_7999
      case 20..<40: mixed = (b ^ c ^ d) &+ 0x6ed9_eba1
      case 40..<60: mixed = (b & c | b & d | c & d) &+ 0x8f1b_bcdc
      default: mixed = (b ^ c ^ d) &+ 0xca62_c1d6
      }
      (a, b, c, d, e) = (rotated(a, by: 5) &+ mixed &+ e &+ schedule[round], a, rotated(b, by: 30), c, d)
    }
    state = (state.0 &+ a, state.1 &+ b, state.2 &+ c, state.3 &+ d, state.4 &+ e)
  }

  private static func rotated(_ word: UInt32, by count: UInt32) -> UInt32 { word &<< count | word &>> (32 - count) }
}
