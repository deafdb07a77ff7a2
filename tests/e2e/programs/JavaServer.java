// SPDX-License-Identifier: MIT
// Counters, with as much of Redis' protocol as a client needs that increments them. Forty threads, the compiler and the garbage collector are at work besides.
import java.io.*;
import java.net.*;
import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.*;

public class JavaServer {
	static final int THREADS = 40;
	static final ConcurrentHashMap<String, AtomicLong> counters = new ConcurrentHashMap<>();
	static final AtomicLong[] rounds = new AtomicLong[THREADS];

	static String line(InputStream in) throws IOException {
		StringBuilder text = new StringBuilder();
		for (int c; (c = in.read()) != '\n';) {
			if (c < 0)
				throw new EOFException();
			if (c != '\r')
				text.append((char) c);
		}
		return text.toString();
	}

	static String word(InputStream in) throws IOException {
		byte[] data = in.readNBytes(Integer.parseInt(line(in).substring(1)) + 2);
		return new String(data, 0, data.length - 2, StandardCharsets.ISO_8859_1);
	}

	static void serve(Socket connection) {
		try (connection) {
			connection.setTcpNoDelay(true);
			InputStream in = new BufferedInputStream(connection.getInputStream());
			OutputStream out = connection.getOutputStream();
			while (true) {
				int count = Integer.parseInt(line(in).substring(1));
				String verb = word(in), key = count > 1 ? word(in) : "";
				String answer = "+PONG";
				if (verb.equals("INCR"))
					answer = ":" + counters.computeIfAbsent(key, k -> new AtomicLong()).incrementAndGet();
				else if (!verb.equals("PING"))
					answer = ":" + Arrays.stream(rounds).mapToLong(AtomicLong::get).min().getAsLong();
				out.write((answer + "\r\n").getBytes(StandardCharsets.ISO_8859_1));
			}
		} catch (IOException | RuntimeException e) {
			// the client has left
		}
	}

	/** Makes garbage that lives for some rounds, and checks what it kept. */
	static void work(int number) {
		Map<Long, long[]> kept = new HashMap<>();
		for (long round = 0;; round++) {
			long[] data = new long[512];
			Arrays.fill(data, round * THREADS + number);
			kept.put(round, data);
			long[] old = kept.remove(round - 64);
			for (int i = 0; old != null && i < old.length; i++)
				if (old[i] != (round - 64) * THREADS + number)
					System.exit(3);
			rounds[number].incrementAndGet();
			try {
				Thread.sleep(5);
			} catch (InterruptedException e) {
				System.exit(4);
			}
		}
	}

	public static void main(String[] arguments) throws IOException {
		for (int i = 0; i < THREADS; i++) {
			int number = i;
			rounds[i] = new AtomicLong();
			new Thread(() -> work(number)).start();
		}
		try (ServerSocket listener = new ServerSocket(6379)) {
			while (true) {
				Socket connection = listener.accept();
				new Thread(() -> serve(connection)).start();
			}
		}
	}
}
