import sidelock.Options;
import sidelock.Sidelock;

public class Main {
  public static void main(String[] arguments) {
    Sidelock sidelock = new Sidelock();
    long end = System.nanoTime() + (long) (1e9 * Double.parseDouble(System.getenv("CYCLES_SECONDS")));
    long count = 0;
    for (; System.nanoTime() < end; count++) sidelock.acquire(Options.defaults(), "cycles").release();
    System.out.println(count);
    System.exit(0);
  }
}
