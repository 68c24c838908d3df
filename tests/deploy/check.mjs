// Reads custom resources as a JSON array on stdin and prints the complaints about them as a JSON array of strings.
//
// The validators know types and required fields, but let unknown fields pass. The type declarations know every field:
// an object literal with one too many does not compile. So each object goes through both.
import * as keda from "@kubernetes-models/keda/keda.sh/v1alpha1";
import * as monitoring from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { text } from "node:stream/consumers";
import ts from "typescript";

const modules = {
  "keda.sh/v1alpha1": ["@kubernetes-models/keda/keda.sh/v1alpha1", keda],
  "monitoring.coreos.com/v1": ["@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1", monitoring],
};
const options = {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  target: ts.ScriptTarget.ES2022,
  module: ts.ModuleKind.NodeNext,
  moduleResolution: ts.ModuleResolutionKind.NodeNext,
  types: [],
};

function invalid(object) {
  const [, module] = modules[object.apiVersion] ?? [];
  if (module?.[object.kind] === undefined) return [`${object.apiVersion} ${object.kind} is not known`];
  try {
    new module[object.kind](object).validate();
    return [];
  } catch (error) {
    return [`${object.kind}: ${error.message}`];
  }
}

function unknownFields(objects) {
  const file = join(dirname(fileURLToPath(import.meta.url)), "objects.mts");
  const source = objects
    .filter((object) => object.apiVersion in modules)
    .map((object, n) => {
      const type = `import("${modules[object.apiVersion][0]}").I${object.kind}`;
      return `export const object${n}: ${type} = ${JSON.stringify(object)};`;
    })
    .join("\n");
  const host = ts.createCompilerHost(options);
  const { fileExists, getSourceFile } = host;
  host.fileExists = (name) => name === file || fileExists.call(host, name);
  host.getSourceFile = (name, ...rest) =>
    name === file ? ts.createSourceFile(name, source, options.target) : getSourceFile.call(host, name, ...rest);
  return ts
    .getPreEmitDiagnostics(ts.createProgram([file], options, host))
    .map((diagnostic) => ts.flattenDiagnosticMessageText(diagnostic.messageText, " "));
}

const objects = JSON.parse(await text(process.stdin));
console.log(JSON.stringify([...objects.flatMap(invalid), ...unknownFields(objects)]));
