package sidelock;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** As much of JSON as the protocol needs: whole numbers are Long, others Double. */
final class Json {
  private static final int NESTING_MAX = 64;
  private final String text;
  private int at;
  private int depth;

  private Json(String text) {
    this.text = text;
  }

  /** Reads a value; IllegalArgumentException where it is none. */
  static Object parse(String text) {
    Json json = new Json(text);
    try {
      Object value = json.value();
      json.space();
      if (json.at != text.length()) throw new IllegalArgumentException("more than a value");
      return value;
    } catch (IndexOutOfBoundsException end) {
      throw new IllegalArgumentException("it ends too soon", end);
    }
  }

  private void space() {
    while (at < text.length() && " \t\r\n".indexOf(text.charAt(at)) >= 0) at++;
  }

  private boolean takes(char wanted) {
    space();
    if (text.charAt(at) != wanted) return false;
    at++;
    return true;
  }

  private void expect(char wanted) {
    if (!takes(wanted)) throw new IllegalArgumentException("no " + wanted + " at " + at);
  }

  private Object value() {
    space();
    if (++depth > NESTING_MAX) throw new IllegalArgumentException("too deep");
    try {
      return switch (text.charAt(at)) {
        case '{' -> object();
        case '[' -> list();
        case '"' -> string();
        default -> word();
      };
    } finally {
      depth--;
    }
  }

  private Map<String, Object> object() {
    Map<String, Object> members = new LinkedHashMap<>();
    expect('{');
    if (takes('}')) return members;
    do {
      space();
      String name = string();
      expect(':');
      members.put(name, value());
    } while (takes(','));
    expect('}');
    return members;
  }

  private List<Object> list() {
    List<Object> values = new ArrayList<>();
    expect('[');
    if (takes(']')) return values;
    do values.add(value());
    while (takes(','));
    expect(']');
    return values;
  }

  private String string() {
    if (text.charAt(at) != '"') throw new IllegalArgumentException("no string at " + at);
    StringBuilder found = new StringBuilder();
    for (at++; text.charAt(at) != '"'; at++) {
      char next = text.charAt(at);
      if (next == '\\') {
        next = text.charAt(++at);
        switch (next) {
          case 'n' -> found.append('\n');
          case 't' -> found.append('\t');
          case 'r' -> found.append('\r');
          case 'b' -> found.append('\b');
          case 'f' -> found.append('\f');
          case 'u' -> {
            found.append((char) Integer.parseInt(text.substring(at + 1, at + 5), 16));
            at += 4;
          }
          default -> found.append(next);
        }
      } else {
        found.append(next);
      }
    }
    at++;
    return found.toString();
  }

  private Object word() {
    int begin = at;
    while (at < text.length() && ",]} \t\r\n".indexOf(text.charAt(at)) < 0) at++;
    String word = text.substring(begin, at);
    return switch (word) {
      case "true" -> true;
      case "false" -> false;
      case "null" -> null;
      default -> {
        try {
          yield Long.valueOf(word);
        } catch (NumberFormatException fraction) {
          yield Double.valueOf(word);
        }
      }
    };
  }

  /** Writes a value. */
  static String write(Object value) {
    StringBuilder to = new StringBuilder();
    write(value, to);
    return to.toString();
  }

  private static void write(Object value, StringBuilder to) {
    if (value instanceof String string) {
      to.append('"');
      for (char next : string.toCharArray()) {
        if (next < 0x20) to.append(String.format("\\u%04x", (int) next));
        else if (next == '"' || next == '\\') to.append('\\').append(next);
        else to.append(next);
      }
      to.append('"');
    } else if (value instanceof Map<?, ?> map) {
      String between = "{";
      for (Map.Entry<?, ?> entry : map.entrySet()) {
        to.append(between);
        write(entry.getKey(), to);
        to.append(':');
        write(entry.getValue(), to);
        between = ",";
      }
      to.append(map.isEmpty() ? "{}" : "}");
    } else if (value instanceof List<?> list) {
      String between = "[";
      for (Object one : list) {
        to.append(between);
        write(one, to);
        between = ",";
      }
      to.append(list.isEmpty() ? "[]" : "]");
    } else {
      to.append(value);
    }
  }
}
