// The details of an error, decoded with the stubs that buf generates.
import { fromBinary } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { BadRequestSchema, ErrorInfoSchema, RequestInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "./gen/google/rpc/status_pb.js";

/** Returns reason, first field and call id of an encoded google.rpc.Status. */
export function detailsOf(encoded) {
  const { details } = fromBinary(StatusSchema, encoded);
  const first = (schema) => details.map((detail) => anyUnpack(detail, schema)).find(Boolean);
  return {
    reason: first(ErrorInfoSchema)?.reason,
    field: first(BadRequestSchema)?.fieldViolations[0]?.field,
    call_id: first(RequestInfoSchema)?.requestId,
  };
}
