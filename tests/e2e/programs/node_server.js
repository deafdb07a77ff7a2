// SPDX-License-Identifier: MIT
// Counters, with as much of Redis' protocol as a client needs that increments them. Files (libuv's thread pool), a worker thread and the garbage collector are at work besides.
"use strict";
const fs = require("fs");
const net = require("net");
const { Worker } = require("worker_threads");

const counters = new Map();
let written = 0, echoed = 0, garbage = [];

net.createServer((connection) => {
	let text = "";
	connection.setNoDelay(true);
	connection.on("error", () => connection.destroy());
	connection.on("data", (data) => {
		text += data.toString("latin1");
		let request;
		while ((request = /^\*(\d+)\r\n\$\d+\r\n([^\r]*)\r\n(?:\$\d+\r\n([^\r]*)\r\n)?/.exec(text)) !== null) {
			text = text.slice(request[0].length);
			if (request[2] === "INCR") {
				counters.set(request[3], (counters.get(request[3]) || 0) + 1);
				connection.write(`:${counters.get(request[3])}\r\n`);
			} else {
				connection.write(request[2] === "PING" ? "+PONG\r\n" : `:${Math.min(written, echoed)}\r\n`);
			}
		}
	});
}).listen(6379, "0.0.0.0");

async function keepWriting() {
	for (;;) {
		await fs.promises.writeFile("/data/number", String(written));
		if (await fs.promises.readFile("/data/number", "latin1") !== String(written))
			process.exit(3);
		written++;
		await new Promise((done) => setTimeout(done, 20));
	}
}

const worker = new Worker("const { parentPort } = require('worker_threads'); parentPort.on('message', (n) => parentPort.postMessage(n));", { eval: true });
worker.on("message", (number) => {
	if (number !== echoed)
		process.exit(4);
	echoed++;
	setTimeout(() => worker.postMessage(echoed), 20);
});
worker.postMessage(0);
setInterval(() => { garbage = garbage.slice(-20).concat([new Array(20000).fill({ at: written })]); }, 20);
keepWriting();
