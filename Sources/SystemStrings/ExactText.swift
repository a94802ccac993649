/// A text that is compared byte for byte. Two `String`s are equal when they look alike, however they are written: an é
/// is one character or an e with an accent. To clients, hosts and settings those are different names.
package struct ExactText: Hashable, Comparable, Sendable {
  /// The text.
  package var text: String

  /// This text.
  package init(_ text: String) {
    self.text = text
  }

  /// Whether both have the same bytes.
  package static func == (a: Self, b: Self) -> Bool { isSame(a.text, b.text) }

  /// The order of their bytes.
  package static func < (a: Self, b: Self) -> Bool { a.text.utf8.lexicographicallyPrecedes(b.text.utf8) }

  /// Hashes the bytes.
  package func hash(into hasher: inout Hasher) {
    var text = text
    text.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
    // Marks the end, whatever is hashed behind it: no UTF-8 has this byte.
    hasher.combine(0xFF as UInt8)
  }

  /// Whether both texts have the same bytes.
  package static func isSame(_ a: String, _ b: String) -> Bool {
    a.utf8.count == b.utf8.count && a.utf8.elementsEqual(b.utf8)
  }

  /// Whether both texts have the same bytes, or neither is there.
  package static func isSame(_ a: String?, _ b: String?) -> Bool {
    switch (a, b) {
    case (let a?, let b?): isSame(a, b)
    case (nil, nil): true
    case (nil, _?), (_?, nil): false
    }
  }
}
