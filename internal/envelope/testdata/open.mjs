// SPDX-License-Identifier: Apache-2.0
// Opens envelopes with Node's crypto: an implementation that shares no code with ours. Reads a JSON list of
// {layout, secret, envelope} from standard input, writes the list of plaintexts.
import { createDecipheriv, pbkdf2Sync } from "node:crypto";
import { readFileSync } from "node:fs";

const open = ({ layout, secret, envelope }) => {
  const raw = Buffer.from(envelope, "base64");
  const [salt, iv, rest] = [raw.subarray(0, 64), raw.subarray(64, 80), raw.subarray(80)];
  const first = layout === "tag-first";
  const tag = first ? rest.subarray(0, 16) : rest.subarray(rest.length - 16);
  const ciphertext = first ? rest.subarray(16) : rest.subarray(0, rest.length - 16);
  const input = first ? Buffer.from(secret, "base64") : Buffer.from(secret, "utf8");
  const decipher = createDecipheriv("aes-256-gcm", pbkdf2Sync(input, salt, 100000, 32, "sha256"), iv);
  decipher.setAuthTag(tag);
  return Buffer.concat([decipher.update(ciphertext), decipher.final()]).toString("utf8");
};

process.stdout.write(JSON.stringify(JSON.parse(readFileSync(0, "utf8")).map(open)));
