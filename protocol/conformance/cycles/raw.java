import java.net.StandardProtocolFamily;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;

public class Main {
  static final String SCRIPT =
      "if redis.call(\"GET\", KEYS[1]) == ARGV[1] then return redis.call(\"DEL\", KEYS[1]) else return 0 end";
  static final ByteBuffer BUFFER = ByteBuffer.allocate(4096);

  static void ask(SocketChannel server, String expected, String... words) throws Exception {
    var line = new StringBuilder("*" + words.length + "\r\n");
    for (String word : words) line.append("$" + word.length() + "\r\n" + word + "\r\n");
    server.write(ByteBuffer.wrap(line.toString().getBytes(StandardCharsets.UTF_8)));
    BUFFER.clear();
    int count = server.read(BUFFER);
    String answer = new String(BUFFER.array(), 0, count, StandardCharsets.UTF_8);
    if (!answer.equals(expected + "\r\n")) throw new Exception(answer);
  }

  public static void main(String[] arguments) throws Exception {
    SocketChannel server = SocketChannel.open(StandardProtocolFamily.UNIX);
    server.connect(UnixDomainSocketAddress.of(System.getenv("CYCLES_REDIS")));
    long end = System.nanoTime() + (long) (1e9 * Double.parseDouble(System.getenv("CYCLES_SECONDS")));
    long count = 0;
    for (; System.nanoTime() < end; count++) {
      ask(server, "+OK", "SET", "raw", "mine", "NX", "PX", "30000");
      ask(server, ":1", "EVAL", SCRIPT, "1", "raw", "mine");
    }
    System.out.println(count);
  }
}
