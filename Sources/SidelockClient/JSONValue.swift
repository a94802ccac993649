import SystemStrings

/// A JSON value. Objects keep their members in the order in which they came.
public enum JSONValue: Hashable, Sendable {
  /// `null`.
  case null
  /// `true` or `false`.
  case bool(Bool)
  /// A number without fraction and exponent that 64 bits hold.
  case int(Int64)
  /// Any other number.
  case double(Double)
  /// A string.
  case string(String)
  /// An array.
  case array([JSONValue])
  /// An object.
  case object(JSONObject)

  /// Compares strings and members' names byte for byte: names of locks are bytes.
  public static func == (a: JSONValue, b: JSONValue) -> Bool {
    switch (a, b) {
    case (.null, .null): true
    case (.bool(let a), .bool(let b)): a == b
    case (.int(let a), .int(let b)): a == b
    case (.double(let a), .double(let b)): a == b
    case (.string(let a), .string(let b)): ExactText.isSame(a, b)
    case (.array(let a), .array(let b)): a == b
    case (.object(let a), .object(let b)): a == b
    case (.null, _), (.bool, _), (.int, _), (.double, _), (.string, _), (.array, _), (.object, _): false
    }
  }

  /// Hashes what is compared.
  public func hash(into hasher: inout Hasher) {
    switch self {
    case .null: hasher.combine(0)
    case .bool(let value): hasher.combine(value)
    case .int(let value): hasher.combine(value)
    case .double(let value): hasher.combine(value)
    case .string(let value): hasher.combine(ExactText(value))
    case .array(let value): hasher.combine(value)
    case .object(let value): hasher.combine(value)
    }
  }

  /// The member `key` of an object; nil for a member that is not there and for anything but an object.
  public subscript(key: String) -> JSONValue? {
    if case .object(let object) = self { object[key] } else { nil }
  }

  /// The text of a string, else nil.
  public var stringValue: String? {
    if case .string(let value) = self { value } else { nil }
  }

  /// The value of a whole number, else nil.
  public var intValue: Int64? {
    if case .int(let value) = self { value } else { nil }
  }

  /// The value of a Boolean, else nil.
  public var boolValue: Bool? {
    if case .bool(let value) = self { value } else { nil }
  }

  /// The elements of an array, else nil.
  public var arrayValue: [JSONValue]? {
    if case .array(let value) = self { value } else { nil }
  }

  /// The object, else nil.
  public var objectValue: JSONObject? {
    if case .object(let value) = self { value } else { nil }
  }

  /// Whether it is `null`.
  public var isNull: Bool {
    self == .null
  }
}

extension JSONValue: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByBooleanLiteral,
  ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
  /// A string.
  public init(stringLiteral value: String) {
    self = .string(value)
  }

  /// A whole number.
  public init(integerLiteral value: Int64) {
    self = .int(value)
  }

  /// A Boolean.
  public init(booleanLiteral value: Bool) {
    self = .bool(value)
  }

  /// An array.
  public init(arrayLiteral elements: JSONValue...) {
    self = .array(elements)
  }

  /// An object with these members in this order.
  public init(dictionaryLiteral elements: (String, JSONValue)...) {
    var object = JSONObject()
    for (key, value) in elements { object.append(key, value) }
    self = .object(object)
  }
}

/// The members of a JSON object, in order.
public struct JSONObject: Hashable, Sendable {
  /// One member.
  public struct Member: Hashable, Sendable {
    /// Its name.
    public var key: String
    /// Its value.
    public var value: JSONValue

    /// Compares byte for byte.
    public static func == (a: Member, b: Member) -> Bool { ExactText.isSame(a.key, b.key) && a.value == b.value }

    /// Hashes the bytes.
    public func hash(into hasher: inout Hasher) {
      hasher.combine(ExactText(key))
      hasher.combine(value)
    }
  }

  /// The members in their order. The messages are small, so a search through them beats a table.
  public private(set) var members: [Member] = []

  /// An object without members.
  public init() {}

  /// The value of the member `key`, or nil.
  public subscript(key: String) -> JSONValue? {
    members.first { ExactText.isSame($0.key, key) }?.value
  }

  /// Adds a member at the end, without checking whether there is one of that name.
  public mutating func append(_ key: String, _ value: JSONValue) {
    members.append(Member(key: key, value: value))
  }
}
