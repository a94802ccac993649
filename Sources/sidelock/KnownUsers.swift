import SidelockClient

/// Names of users that were looked up once: many processes are of one user, and each look may ask a directory service.
struct KnownUsers {
  private var names: [Int64: String?] = [:]

  /// The name of a user, where it is known.
  mutating func name(of uid: Int64) -> String? {
    let name = names[uid] ?? Users.name(of: uid)
    names[uid] = .some(name)
    return name
  }

  /// A user for people: the name, or where that is not known the number.
  mutating func words(_ uid: Int64) -> String { name(of: uid) ?? "\(uid)" }

  /// A client, holder or waiter with the name of its user behind the number, where that is known.
  mutating func named(_ one: JSONValue) -> JSONValue {
    guard let uid = one["uid"]?.intValue, let name = name(of: uid) else { return one }
    var object = JSONObject()
    for member in one.objectValue?.members ?? [] {
      object.append(member.key, member.value)
      if member.key == "uid" { object.append("user", .string(name)) }
    }
    return .object(object)
  }

  /// A lock with the names of the users who hold it or wait for it.
  mutating func named(inLock lock: JSONValue) -> JSONValue {
    var object = JSONObject()
    for member in lock.objectValue?.members ?? [] {
      switch (member.key, member.value) {
      case ("holders", .array(let people)), ("waiters", .array(let people)):
        object.append(member.key, .array(people.map { named($0) }))
      case _: object.append(member.key, member.value)
      }
    }
    return .object(object)
  }
}
